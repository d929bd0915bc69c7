// SPDX-License-Identifier: Apache-2.0
#include "carousel/formats/new_file.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>

#include "carousel/core/error.h"
#include "carousel/core/files.h"
#include "carousel/core/json.h"
#include "tests/scratch.h"

namespace carousel::formats {
namespace {

namespace fs = std::filesystem;
using Names = std::vector<std::string>;

void write(const std::string& path, const std::string& text) { std::ofstream(path, std::ios::binary) << text; }

std::string read(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(stream), {});
}

std::string error_of(const std::function<void()>& run) {
  try {
    run();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

bool says(const std::string& message, const std::string& words) { return message.find(words) != message.npos; }

/// In a process that ends as by kill -9: nothing is unwound.
pid_t die_after(const std::function<void()>& run) {
  const pid_t child = fork();
  if (child == 0) {
    run();
    _exit(0);
  }
  waitpid(child, nullptr, 0);
  return child;
}

TEST(NewFile, TakesItsNameWithTheLastByte) {
  const Scratch scratch;
  write(scratch / "x", "before");
  {
    NewFile file(scratch / "x");
    file.put("after!", 6, 0);
    EXPECT_EQ(read(scratch / "x"), "before");
    EXPECT_EQ(names_in(scratch.path()), (Names{".x.partial", "x"}));
    file.finish();
  }
  EXPECT_EQ(read(scratch / "x"), "after!");
  EXPECT_EQ(names_in(scratch.path()), Names{"x"});
}

TEST(NewFile, RemovesWhatDeadWritersLeft) {
  const Scratch scratch;
  die_after([&] {
    auto* first = new NewFile(scratch / "x");
    auto* second = new NewFile(scratch / "x");
    first->put("0123456789", 10, 0);
    second->put("0123456789", 10, 0);
  });
  EXPECT_EQ(names_in(scratch.path()), (Names{".x.1.partial", ".x.partial"}));
  NewFile file(scratch / "x", Rivals::kRefuse);
  EXPECT_EQ(names_in(scratch.path()), Names{".x.partial"});
  file.put("a", 1, 0);
  file.finish();
  EXPECT_EQ(read(scratch / "x"), "a");
  EXPECT_EQ(names_in(scratch.path()), Names{"x"});
}

// The number of a process that has ended may be another's by now; nobody is asked for it.
TEST(NewFile, LocksTellWhoLivesNotNumbers) {
  const Scratch scratch;
  write(scratch / ".x.partial", "process " + std::to_string(getpid()));
  NewFile(scratch / "x", Rivals::kRefuse).finish();
  EXPECT_EQ(read(scratch / "x"), "");
}

TEST(NewFile, OfTwoWritersThatRefuseRivalsOneIsTold) {
  const Scratch scratch;
  NewFile first(scratch / "x", Rivals::kRefuse);
  first.put("first", 5, 0);
  const std::string error = error_of([&] { NewFile(scratch / "x", Rivals::kRefuse); });
  EXPECT_TRUE(says(error, "/x: another run is writing it")) << error;
  first.finish();
  EXPECT_EQ(read(scratch / "x"), "first");
  NewFile later(scratch / "x", Rivals::kRefuse);  // one after the other they may replace
  later.finish();
  EXPECT_EQ(names_in(scratch.path()), Names{"x"});
}

TEST(NewFile, OfTwoWritersThatReplaceTheLastStays) {
  const Scratch scratch;
  NewFile first(scratch / "x"), second(scratch / "x");
  first.put("first", 5, 0);
  second.put("second", 6, 0);
  second.finish();
  EXPECT_EQ(read(scratch / "x"), "second");
  write_text_file(scratch / "x", "text");
  EXPECT_EQ(read(scratch / "x"), "text");
  first.finish();
  EXPECT_EQ(read(scratch / "x"), "first");
  EXPECT_EQ(names_in(scratch.path()), Names{"x"});
}

TEST(NewFolder, IsNoModelBeforeItIsKept) {
  const Scratch scratch;
  const std::string path = scratch / "model";
  NewFolder folder(path);
  write_text_file(folder.file("config.json"), "{}");
  const std::string error = error_of([&] { check_complete(path); });
  EXPECT_TRUE(says(error, "unfinished: process " + std::to_string(getpid()) + " is writing it")) << error;
  folder.keep();
  check_complete(path);
  EXPECT_EQ(names_in(path), Names{"config.json"});
}

TEST(NewFolder, GoesUnlessItIsKept) {
  const Scratch scratch;
  const std::string path = scratch / "model";
  {
    NewFolder folder(path);
    write_text_file(folder.file("config.json"), "{}");
  }
  EXPECT_FALSE(fs::exists(path));
  fs::create_directory(path);
  { NewFolder folder(path); }
  EXPECT_TRUE(fs::is_empty(path)) << "another made it";
}

// A limit of the size of files stands for a full disk: not a byte can be written.
TEST(NewFolder, IsGoneWhereItsFirstByteFindsNoRoom) {
  const Scratch scratch;
  const std::string path = scratch / "model";
  const pid_t child = fork();
  if (child == 0) {
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit none{0, 0};
    setrlimit(RLIMIT_FSIZE, &none);
    _exit(says(error_of([&] { NewFolder folder(path); }), "/.carousel.partial: cannot write: File too large") ? 0 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_EQ(status, 0) << "it says what it could not write";
  EXPECT_FALSE(fs::exists(path));
}

TEST(NewFolder, ASecondWriterIsToldAndTakesNothingAway) {
  const Scratch scratch;
  const std::string path = scratch / "model";
  NewFolder folder(path);
  write_text_file(folder.file("config.json"), "{}");
  const std::string error = error_of([&] { NewFolder second(path); });
  EXPECT_TRUE(says(error, "/model: another run is writing it")) << error;
  folder.keep();
  EXPECT_EQ(names_in(path), Names{"config.json"});
  const std::string full = error_of([&] { NewFolder second(path); });
  EXPECT_TRUE(says(full, "exists and is not an empty folder")) << full;
  EXPECT_EQ(names_in(path), Names{"config.json"});
}

TEST(NewFolder, OfADeadWriterIsToldApartAndTakenOver) {
  const Scratch scratch;
  const std::string path = scratch / "model";
  const pid_t dead = die_after([&] {
    auto* folder = new NewFolder(path);
    write_text_file(folder->file("config.json"), "{}");
    auto* weights = new NewFile(folder->file("model.safetensors"));
    weights->put("half", 4, 0);
    folder->file("tokenizer.json");
  });
  const std::string error = error_of([&] { check_complete(path); });
  EXPECT_TRUE(says(error, "/model: unfinished, written by process " + std::to_string(dead))) << error;
  EXPECT_TRUE(says(error, "remove the folder or run again")) << error;
  {
    NewFolder again(path);
    EXPECT_EQ(names_in(path), Names{".carousel.partial"});
    write_text_file(again.file("other.json"), "{}");
    again.keep();
  }
  EXPECT_EQ(names_in(path), Names{"other.json"});
}

TEST(NewFolder, OfADeadWriterKeepsWhatOthersPutThere) {
  const Scratch scratch;
  const std::string path = scratch / "model";
  die_after([&] { write_text_file((new NewFolder(path))->file("config.json"), "{}"); });
  write(path + "/notes.txt", "mine");
  const std::string error = error_of([&] { NewFolder again(path); });
  EXPECT_TRUE(says(error, "exists and is not an empty folder")) << error;
  EXPECT_EQ(read(path + "/notes.txt"), "mine");
}

TEST(NewFolder, IsFilledWhereTheParentIsClosed) {
  const Scratch scratch;
  const std::string path = scratch / "model";
  fs::create_directory(path);
  fs::permissions(scratch.path(), fs::perms::owner_read | fs::perms::owner_exec);
  {
    NewFolder folder(path);
    write_text_file(folder.file("config.json"), "{}");
    folder.keep();
  }
  fs::permissions(scratch.path(), fs::perms::owner_all);
  EXPECT_EQ(names_in(path), Names{"config.json"});
}

TEST(Drafts, AreAbandonedByAProcessThatDoesNotUnwind) {
  const Scratch scratch;
  write(scratch / ".other.partial", "of another process");
  die_after([&] {
    (new NewFile(scratch / "file"))->put("0123456789", 10, 0);
    write_text_file((new NewFolder(scratch / "folder"))->file("config.json"), "{}");
    abandon_drafts();
  });
  EXPECT_EQ(names_in(scratch.path()), Names{".other.partial"});
}

}  // namespace
}  // namespace carousel::formats
