// SPDX-License-Identifier: Apache-2.0
// The lock is the draft of no file.
#include "carousel/cli/run_lock.h"

#include <cerrno>
#include <cstring>

#include "carousel/core/error.h"

namespace carousel::cli {

RunLock::RunLock(const std::string& out) {
  const std::string path = out + "/.running";
  switch (draft_.take(path)) {
    case Draft::Taken::kYes:
      return;
    case Draft::Taken::kHeld:
      fail(ErrorKind::kInput, "{}: another run is training here", out);
    case Draft::Taken::kUnknown:
      refuse_unknown(out, path);
    case Draft::Taken::kRefused:
      fail(ErrorKind::kIo, "{}: cannot create: {}", path, std::strerror(errno));
  }
}

}  // namespace carousel::cli
