// SPDX-License-Identifier: Apache-2.0
#include "carousel/generate/conversation.h"

#include <gtest/gtest.h>

namespace carousel::generate {
namespace {

model::SavedState saved(int32_t token, size_t count = 1) { return {{}, std::vector<int32_t>(count, token), {}}; }

TEST(Conversation, StepsBackThroughEverythingThatWas) {
  Conversation talk;
  EXPECT_FALSE(talk.undo());
  talk.advance(saved(1));
  talk.advance(saved(2));
  EXPECT_EQ(talk.now().tokens.front(), 2);
  ASSERT_TRUE(talk.undo());
  EXPECT_EQ(talk.now().tokens.front(), 1);
  talk.advance(saved(3));
  ASSERT_TRUE(talk.undo());
  EXPECT_EQ(talk.now().tokens.front(), 1);
  ASSERT_TRUE(talk.undo());
  EXPECT_TRUE(talk.now().tokens.empty());
  EXPECT_FALSE(talk.undo());
  EXPECT_FALSE(talk.forgot());
}

TEST(Conversation, ACopyIsABranchWithAPastOfItsOwn) {
  Conversation talk;
  talk.advance(saved(1));
  Conversation branch = talk;
  branch.advance(saved(2));
  talk.advance(saved(3));
  EXPECT_EQ(branch.now().tokens.front(), 2);
  ASSERT_TRUE(branch.undo() && branch.undo());
  EXPECT_EQ(talk.now().tokens.front(), 3);
  ASSERT_TRUE(talk.undo());
  EXPECT_EQ(talk.now().tokens.front(), 1);
}

TEST(Conversation, ThePastIsBoundedAndItsLastStateKept) {
  constexpr size_t kCount = 100;
  constexpr size_t kBytes = kCount * sizeof(int32_t);
  Conversation talk(2 * kBytes);
  for (int32_t turn = 1; turn <= 5; ++turn) talk.advance(saved(turn, kCount));
  EXPECT_TRUE(talk.forgot());
  for (const int32_t turn : {4, 3}) {
    ASSERT_TRUE(talk.undo());
    EXPECT_EQ(talk.now().tokens.front(), turn);
  }
  EXPECT_FALSE(talk.undo());
  talk.advance(saved(6, 10 * kCount));
  talk.advance(saved(7, 10 * kCount));
  ASSERT_TRUE(talk.undo()) << "one step back is always there";
  EXPECT_EQ(talk.now().tokens.front(), 6);
  EXPECT_FALSE(talk.undo());
}

}  // namespace
}  // namespace carousel::generate
