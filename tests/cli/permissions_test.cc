// SPDX-License-Identifier: Apache-2.0
// Folders and files that the user may not read: one line that names what was tried. The superuser may read all, so that
// the commands then run as somebody else.
#include <filesystem>

#include "tests/cli/tiny_model.h"

namespace carousel::cli {
namespace {

namespace fs = std::filesystem;

class Permissions : public testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() == 0) as_other_ = "setpriv --reuid=65534 --regid=65534 --clear-groups ";
    if (run("--version").status != 0) GTEST_SKIP() << "no other user can run carousel here";
    fs::permissions(scratch_.path(), fs::perms::all);
    model_ = init_model(scratch_, kTinyXlstm);
    fs::permissions(model_, fs::perms::none);
  }
  void TearDown() override {
    if (!model_.empty()) fs::permissions(model_, fs::perms::owner_all);
  }
  Ran run(const std::string& arguments) {
    const std::string command = as_other_ + CAROUSEL_RUN_DIR "/carousel " + arguments + " </dev/null >" +
                                (scratch_ / "out") + " 2>" + (scratch_ / "err");
    const int status = std::system(command.c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_file(scratch_ / "out"), read_file(scratch_ / "err")};
  }
  const Scratch scratch_;
  std::string as_other_, model_;
};

TEST_F(Permissions, AFolderThatIsClosed) {
  const std::string out = " --out " + (scratch_ / "new");
  for (const std::string& command :
       {"info " + model_, "generate " + model_ + " -p a", "bench " + model_, "quantize " + model_ + " --type q8" + out,
        "convert " + model_ + out, "init " + model_ + out}) {
    const Ran ran = run(command);
    EXPECT_EQ(ran.status, 1) << command;
    EXPECT_EQ(ran.err, "carousel: error: " + model_ + ": cannot list: Permission denied\n") << command;
  }
  for (const std::string& inside : {model_ + "/config.json", model_ + "/m.gguf", model_ + "/deeper"}) {
    for (const std::string command : {"info ", "tokenize -p a ", "wiring ", "generate -p a "}) {
      const Ran ran = run(command + inside);
      EXPECT_EQ(ran.status, 1) << command;
      EXPECT_EQ(ran.err, "carousel: error: " + inside + ": cannot open: Permission denied\n") << command;
    }
  }
  EXPECT_TRUE(is_absent(scratch_ / "new"));
}

TEST_F(Permissions, AFolderThatCannotBeWritten) {
  fs::permissions(model_, fs::perms(0555));
  for (const std::string& command :
       {"init " + model_ + " --out " + model_ + "/new", "convert " + model_ + " --out " + model_ + "/m.gguf",
        "quantize " + model_ + " --type q8 --out " + model_ + "/new",
        "generate " + model_ + " -p a -n 1 --save-state " + model_ + "/state"}) {
    const Ran ran = run(command);
    EXPECT_EQ(ran.status, 1) << command;
    EXPECT_NE(ran.err.find("Permission denied"), std::string::npos) << ran.err;
    EXPECT_NE(ran.err.find(model_ + "/"), std::string::npos) << ran.err;
    EXPECT_EQ(std::count(ran.err.begin(), ran.err.end(), '\n'), 1) << ran.err;
  }
}

}  // namespace
}  // namespace carousel::cli
