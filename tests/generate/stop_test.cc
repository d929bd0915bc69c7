// SPDX-License-Identifier: Apache-2.0
// Stop strings, whatever the pieces the text comes in.
#include "carousel/generate/stop.h"

#include <gtest/gtest.h>

namespace carousel::generate {
namespace {

struct Result {
  std::string text;
  bool stopped = false;
};

Result run(const std::vector<std::string>& stops, const std::vector<std::string>& pieces) {
  StopScanner scanner(stops);
  Result result;
  for (const std::string& piece : pieces) {
    if (scanner.feed(piece, result.text)) {
      result.stopped = true;
      return result;
    }
  }
  scanner.flush(result.text);
  return result;
}

TEST(StopScanner, FindsAStringAcrossPieces) {
  const Result result = run({"END"}, {"some", " E", "N", "D more"});
  EXPECT_TRUE(result.stopped);
  EXPECT_EQ(result.text, "some ");
}

TEST(StopScanner, HoldsBackOnlyWhatCouldBecomeOne) {
  StopScanner scanner({"abc"});
  std::string out;
  EXPECT_FALSE(scanner.feed("xyzab", out));
  EXPECT_EQ(out, "xyz");
  EXPECT_FALSE(scanner.feed("d", out));
  EXPECT_EQ(out, "xyzabd");
  EXPECT_FALSE(scanner.feed("a", out));
  scanner.flush(out);
  EXPECT_EQ(out, "xyzabda");
}

TEST(StopScanner, OverlappingStartsAreNotMissed) {
  EXPECT_EQ(run({"aab"}, {"a", "a", "a", "b"}).text, "a");
  EXPECT_TRUE(run({"aab"}, {"a", "a", "a", "b"}).stopped);
}

TEST(StopScanner, TheChoiceDoesNotDependOnThePieces) {
  for (const std::vector<std::string>& stops : {std::vector<std::string>{"bcd", "c"}, {"c", "bcd"}, {"abcde", "bc"}}) {
    const Result whole = run(stops, {"xabcdey"});
    const Result letters = run(stops, {"x", "a", "b", "c", "d", "e", "y"});
    EXPECT_EQ(whole.text, letters.text);
    EXPECT_TRUE(whole.stopped && letters.stopped);
  }
}

TEST(StopScanner, OfTwoThatEndTogetherTheLongerCounts) { EXPECT_EQ(run({"lo", "hello"}, {"say hello"}).text, "say "); }

TEST(StopScanner, WithoutStringsEverythingPasses) {
  EXPECT_EQ(run({}, {"a", "b"}).text, "ab");
  EXPECT_EQ(run({""}, {"a", "b"}).text, "ab");
  EXPECT_FALSE(run({""}, {"a", "b"}).stopped);
}

}  // namespace
}  // namespace carousel::generate
