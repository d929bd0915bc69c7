// SPDX-License-Identifier: Apache-2.0
// Files and folders that appear complete or not at all, whoever else writes at the same place and whenever a writer is
// killed.
//
// 1. A file is written as its draft, ".NAME.partial" beside it, and takes its name by rename(2) once it is flushed.
// 2. A folder that is being filled holds a draft of its own, the list of files that are written into it. A name is on
//    the list before its file is in the folder. Unlinking the draft, once every file is flushed, completes the folder.
// 3. A writer holds the lock of its draft (core/draft) from before the first byte until the draft's name is gone. The
//    system drops the lock with the process: a draft without a lock has no writer.
// 4. The next writer of the same place takes such a draft over, and removes the files on its list.
// 5. A writer removes or changes only files that are on its own list or on a dead writer's.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "carousel/core/draft.h"

namespace carousel::formats {

class NewFile {
 public:
  /// Throws Error(kIo): `path` is something else than a regular file, nothing can be created beside it, or a rival is
  /// refused.
  explicit NewFile(const std::string& path, Rivals rivals = Rivals::kReplace);
  ~NewFile();  // without finish(): nothing is left
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;

  const std::string& path() const { return path_; }
  /// Writes at any offset, in any order; bytes that are never written read as zeros. Throws Error(kIo).
  void put(const void* bytes, size_t size_bytes, size_t offset_bytes);
  /// Flushes the draft and gives it its name. Throws Error(kIo).
  void finish();

 private:
  std::string path_;
  Draft draft_;
  size_t unflushed_bytes_ = 0;  // bytes written since the system was last told to write to the disk
};

/// The contents of a folder's draft: a line with the process and whether it made the folder, then a name per line.
struct FolderDraft {
  long process = 0;
  bool made = false;
  std::vector<std::string> names;  // files of the folder
  std::string first_line() const;
  static FolderDraft read(int descriptor);
  /// Removes the files, and their drafts, from `folder`.
  void remove_files(const std::string& folder) const;
};

/// A new folder. Unless it is kept, the destructor removes it with the files that were put into it; files of others are
/// left.
class NewFolder {
 public:
  /// Throws Error(kIo): `path` exists and is not an empty folder, cannot be created, or another run is writing it.
  explicit NewFolder(const std::string& path);
  ~NewFolder();
  NewFolder(const NewFolder&) = delete;
  NewFolder& operator=(const NewFolder&) = delete;
  /// The path of a file in it that the caller is about to write. Throws Error(kIo).
  std::string file(const std::string& name);
  /// Flushes the files and completes the folder. Throws Error(kIo).
  void keep();

 private:
  void take_draft();
  void begin_list();
  void give_up();  // removes what was begun

  std::string path_;
  Draft draft_;
  FolderDraft list_;
};

/// Gives a folder that is complete another name, for good. A folder that has that name must be empty. Throws
/// Error(kIo).
void move_folder(const std::string& from, const std::string& to);

/// Throws Error(kInput) where `folder` is still being filled, or its writer was ended before it was complete.
void check_complete(const std::string& folder);

/// Removes all files that this process is writing, which it finds as drafts among its open files: for a process that
/// ends without unwinding. Nothing may be written afterwards.
void abandon_drafts();

}  // namespace carousel::formats
