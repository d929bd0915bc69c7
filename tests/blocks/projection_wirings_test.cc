// SPDX-License-Identifier: Apache-2.0
// The masks a section's "wiring" gives its projections, and the sections that are refused.
#include "carousel/blocks/projection_wirings.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>

#include "carousel/blocks/wiring.h"
#include "carousel/core/error.h"

namespace carousel::blocks {
namespace {

Wirings::Found find(const std::string& entry, int64_t rows, int64_t cols,
                    const std::string& full_name = "layers.0.m.q") {
  Json section = {{"wiring", {{"q", parse_json(entry, "test")}}}};
  ProjectionWirings wirings(section, "test");
  return wirings.find("q", full_name, rows, cols);
}

std::vector<int> entries(const Mask& mask) {
  std::vector<int> out;
  std::vector<int8_t> row(static_cast<size_t>(mask.cols()));
  for (int64_t r = 0; r < mask.rows(); ++r) {
    mask.row(r, row.data());
    out.insert(out.end(), row.begin(), row.end());
  }
  return out;
}

TEST(ProjectionWirings, RandomHasTheSparsityItNamesEvenlyOverTheRows) {
  const auto found = find(R"({"type": "random", "sparsity": 0.9, "seed": 5, "polarity": true})", 97, 333);
  EXPECT_FALSE(found.stored);
  EXPECT_TRUE(found.mask->polarity());
  const std::vector<int> signs = entries(*found.mask);
  const auto live = static_cast<int64_t>(signs.size()) - std::count(signs.begin(), signs.end(), 0);
  EXPECT_EQ(live, 3230);  // round(97 * 333 * 0.1)
  EXPECT_EQ(found.mask->live(), live);
  int64_t columns = 0;  // that some row hears
  for (int64_t k = 0; k < 333; ++k) {
    bool heard = false;
    for (int64_t r = 0; r < 97; ++r) heard = heard || signs[static_cast<size_t>(r * 333 + k)] != 0;
    columns += heard ? 1 : 0;
  }
  EXPECT_EQ(columns, 333);
  for (int64_t r = 0; r < 97; ++r) {
    const auto begin = signs.begin() + r * 333;
    const int64_t own = 333 - std::count(begin, begin + 333, 0);
    EXPECT_TRUE(own == 33 || own == 34) << own;
    EXPECT_EQ(found.mask->live_in_row(r), own);
  }
  const int64_t negative = std::count(signs.begin(), signs.end(), -1);
  EXPECT_LT(std::abs(2 * negative - live), 230);  // 4 standard deviations
}

TEST(ProjectionWirings, ASeedGivesTheSameMaskAndPolarityMovesNothing) {
  const char* const plain = R"({"type": "random", "sparsity": 0.7, "seed": 5})";
  const std::vector<int> first = entries(*find(plain, 40, 50).mask);
  EXPECT_EQ(entries(*find(plain, 40, 50).mask), first);
  EXPECT_NE(entries(*find(R"({"type": "random", "sparsity": 0.7, "seed": 6})", 40, 50).mask), first);
  EXPECT_NE(entries(*find(plain, 40, 50, "layers.1.m.q").mask), first) << "layers share a section, not a mask";
  std::vector<int> polar =
      entries(*find(R"({"type": "random", "sparsity": 0.7, "seed": 5, "polarity": true})", 40, 50).mask);
  for (int& sign : polar) sign = std::abs(sign);
  EXPECT_EQ(polar, first);
}

TEST(ProjectionWirings, ExtremesOfSparsity) {
  EXPECT_EQ(find(R"({"type": "random", "sparsity": 0})", 7, 9).mask->live(), 63);
  EXPECT_EQ(find(R"({"type": "random", "sparsity": 1})", 7, 9).mask->live(), 0);
  const std::vector<int> full = entries(*find(R"({"type": "random", "sparsity": 0})", 7, 9).mask);
  EXPECT_EQ(std::count(full.begin(), full.end(), 1), 63);
}

TEST(ProjectionWirings, CircuitsGiveTheirSensorySynapses) {
  const Json circuit = {{"type", "AutoNCP"}, {"units", 24}, {"output_size", 4}, {"sparsity_level", 0.5}, {"seed", 3}};
  const Wiring wiring = make_wiring(circuit, 10, "test");
  const auto found =
      find(R"({"type": "AutoNCP", "output_size": 4, "sparsity_level": 0.5, "seed": 3, "polarity": true})", 24, 10);
  const std::vector<int> signs = entries(*found.mask);
  for (int64_t r = 0; r < 24; ++r) {
    for (int64_t k = 0; k < 10; ++k) {
      EXPECT_EQ(signs[static_cast<size_t>(r * 10 + k)], wiring.sensory_synapse(k, r)) << r << ", " << k;
    }
  }
  EXPECT_EQ(found.mask->live(), wiring.sensory_synapse_count());
  EXPECT_GT(found.mask->live(), 0);
}

TEST(ProjectionWirings, MatricesAreTakenAsTheyAre) {
  const auto found = find(R"({"type": "explicit", "matrix": [[1, 0, -1], [0, 0, 1]], "polarity": true})", 2, 3);
  EXPECT_EQ(entries(*found.mask), (std::vector<int>{1, 0, -1, 0, 0, 1}));
}

TEST(ProjectionWirings, AStoredMaskStartsAsItIsToldOrFull) {
  EXPECT_TRUE(find(R"({"type": "checkpoint"})", 4, 5).stored);
  EXPECT_EQ(find(R"({"type": "checkpoint"})", 4, 5).mask->live(), 20);
  const auto drawn =
      find(R"({"type": "checkpoint", "init": {"type": "random", "sparsity": 0.5}, "polarity": true})", 4, 5);
  EXPECT_TRUE(drawn.stored && drawn.mask->polarity());
  EXPECT_EQ(drawn.mask->live(), 10);
}

TEST(ProjectionWirings, NamesMayLeaveNumbersOpenOrBeAll) {
  Json section = {{"wiring",
                   {{"experts.*.up", {{"type", "random"}, {"sparsity", 0.5}}},
                    {"experts.1.up", {{"type", "random"}, {"sparsity", 0.25}}},
                    {"*", {{"type", "random"}, {"sparsity", 0.75}}}}},
                  {"num_experts", 3}};
  ProjectionWirings wirings(section, "test");
  EXPECT_EQ(section, Json({{"num_experts", 3}}));
  EXPECT_EQ(wirings.find("experts.0.up", "a", 4, 4).mask->live(), 8);
  EXPECT_EQ(wirings.find("experts.1.up", "b", 4, 4).mask->live(), 12);
  EXPECT_EQ(wirings.find("router", "c", 4, 4).mask->live(), 4);
  Fields left(section, "test");
  wirings.finish(left);
}

TEST(ProjectionWirings, ACircuitIsLeftToTheBlock) {
  Json section = {{"wiring", {{"type", "AutoNCP"}, {"units", 8}}}};
  ProjectionWirings wirings(section, "test");
  EXPECT_TRUE(section.contains("wiring"));
  EXPECT_EQ(wirings.find("out", "a", 4, 4).mask, nullptr);
}

std::string refusal(const std::string& wiring) {
  Json section = {{"wiring", parse_json(wiring, "test")}};
  try {
    ProjectionWirings wirings(section, "c.json: layers.0.m");
    wirings.find("q", "layers.0.m.q", 2, 3);
    wirings.find("v", "layers.0.m.v", 5000, 4000);
    Fields left(section, "c.json: layers.0.m");
    wirings.finish(left);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kInput);
    return error.what();
  }
  return "accepted";
}

TEST(ProjectionWirings, RefusesByName) {
  const std::string where = "c.json: layers.0.m: \"wiring\"";
  const std::pair<const char*, std::string> cases[] = {
      {R"(3)", where + " is 3, expected an object with a wiring per projection"},
      {R"({"w": {"type": "random", "sparsity": 0.5}})",
       where + ": unknown projection \"w\"; projections of this block: q, v"},
      {R"({"type": "random", "sparsity": 0.5})", where + " is a wiring itself, expected one per projection, of: q, v"},
      {R"({"q": [1]})", where + ": \"q\": got [1], expected an object"},
      {R"({"q": {"sparsity": 0.5}})", where + ": \"q\": \"type\" is missing and has no default"},
      {R"({"q": {"type": "sparse"}})",
       where + ": \"q\": \"type\" is \"sparse\", expected one of: random, NCP, AutoNCP, explicit, checkpoint"},
      {R"({"q": {"type": "random"}})", where + ": \"q\": \"sparsity\" is missing and has no default"},
      {R"({"q": {"type": "random", "sparsity": -1}})",
       where + ": \"q\": \"sparsity\" is -1, expected a number from 0 to 1"},
      {R"({"q": {"type": "random", "sparsity": 0.5, "density": 1}})",
       where + ": \"q\": unknown key \"density\"; known keys: polarity, seed, sparsity, type"},
      {R"({"q": {"type": "random", "sparsity": 0.5, "polarity": 1}})",
       where + ": \"q\": \"polarity\" is 1, expected true or false"},
      {R"({"q": {"type": "explicit", "matrix": [[1, 0, 1]]}})",
       where + ": \"q\": \"matrix\" has 1 rows, expected [2, 3] numbers -1, 0 or 1"},
      {R"({"q": {"type": "explicit", "matrix": [[1, 0, 2], [0, 0, 0]]}})",
       where + ": \"q\": \"matrix\" holds 2, expected [2, 3] numbers -1, 0 or 1"},
      {R"({"q": {"type": "checkpoint", "init": {"type": "checkpoint"}}})",
       where + ": \"q\": \"init\": \"type\" is \"checkpoint\", expected one of: random, NCP, AutoNCP, explicit"},
      {R"({"v": {"type": "NCP", "inter_neurons": 4, "command_neurons": 2, "motor_neurons": 1, "sensory_fanout": 2,
           "inter_fanout": 2, "recurrent_command_synapses": 1, "motor_fanin": 1}})",
       where + ": \"v\": 7 neurons, expected 5000, the outputs of the projection"},
  };
  for (const auto& [wiring, expected] : cases) EXPECT_EQ(refusal(wiring), expected) << wiring;
}

}  // namespace
}  // namespace carousel::blocks
