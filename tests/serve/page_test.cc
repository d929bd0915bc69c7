// SPDX-License-Identifier: Apache-2.0
// The commands of docs/serve.md, executed in order: they print what stands below them, where "..." stands for anything.
#include <sstream>
#include <vector>

#include "tests/cli/page_examples.h"
#include "tests/cli/process.h"
#include "tests/serve/spawned.h"

namespace carousel::serve {
namespace {

constexpr const char* kPage = CAROUSEL_SOURCE_DIR "/docs/serve.md";
constexpr const char* kAddress = "http://127.0.0.1:8080";

/// Whether `text` is `shown`, in which "..." stands for anything.
bool looks_like(const std::string& text, const std::string& shown) {
  const std::string anything = "...";
  size_t at = 0;
  for (size_t begin = 0;;) {
    const size_t end = shown.find(anything, begin);
    const std::string piece = shown.substr(begin, end == shown.npos ? end : end - begin);
    if (end == shown.npos) {
      return begin == 0 ? text == shown : text.size() >= at + piece.size() && text.ends_with(piece);
    }
    const size_t found = text.find(piece, at);
    if (found == text.npos || (begin == 0 && found != 0)) return false;
    at = found + piece.size();
    begin = end + anything.size();
  }
}

TEST(ServePage, ShownOutputMayLeaveThingsOut) {
  EXPECT_TRUE(looks_like("abc", "abc"));
  EXPECT_TRUE(looks_like("abcabd", "a...d"));
  EXPECT_TRUE(looks_like("xabc", "...c"));
  EXPECT_FALSE(looks_like("abcd", "abc"));
  EXPECT_FALSE(looks_like("xabc", "a...c"));
  EXPECT_FALSE(looks_like("ab", "ab...b"));
}

TEST(ServePage, CommandsPrintWhatIsShown) {
  if (std::system("curl --version > /dev/null 2>&1") != 0) GTEST_SKIP() << "curl is not here";
  const std::vector<cli::Example> found = cli::examples(cli::read_file(kPage));
  ASSERT_GE(found.size(), 10u);
  const Scratch scratch;
  // The first one starts the server, on a port that is free.
  std::istringstream words(cli::replace_all(found[0].command, "/tmp/", scratch / ""));
  std::vector<std::string> arguments;
  for (std::string word; words >> word;) arguments.push_back(word);
  ASSERT_EQ(arguments[0], "carousel");
  arguments.erase(arguments.begin());
  std::replace(arguments.begin(), arguments.end(), std::string("8080"), std::string("0"));
  arguments[1] = std::string(CAROUSEL_SOURCE_DIR "/") + arguments[1];
  cli::Process server(arguments);
  const int port = port_of(server);
  ASSERT_GT(port, 0) << server.err();
  const std::string address = "http://127.0.0.1:" + std::to_string(port);
  EXPECT_EQ(cli::replace_all(server.err(), address, kAddress), found[0].output);

  // One shell runs the others, for they set variables.
  std::string script = "cd " CAROUSEL_SOURCE_DIR " && PATH=" CAROUSEL_RUN_DIR ":$PATH\n";
  for (size_t i = 1; i < found.size(); ++i) {
    const std::string command =
        cli::replace_all(cli::replace_all(found[i].command, "/tmp/", scratch / ""), kAddress, address);
    script += "{ " + command + "\n} > " + (scratch / ("out" + std::to_string(i))) + " 2>> " + (scratch / "err") + "\n";
  }
  cli::write_file(scratch / "script", script);
  std::system(("sh " + (scratch / "script")).c_str());
  for (size_t i = 1; i < found.size(); ++i) {
    const std::string out = cli::read_file(scratch / ("out" + std::to_string(i)));
    EXPECT_TRUE(looks_like(out, found[i].output)) << found[i].command << "\nprinted\n"
                                                  << out << "expected\n"
                                                  << found[i].output << cli::read_file(scratch / "err");
  }
}

}  // namespace
}  // namespace carousel::serve
