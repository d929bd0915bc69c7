// SPDX-License-Identifier: Apache-2.0
// Circuits equal those of the reference, and hold what the construction promises for any seed.
#include "carousel/blocks/wiring.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "carousel/core/error.h"
#include "carousel/formats/safetensors.h"

namespace carousel::blocks {
namespace {

class ReferenceWiring : public testing::TestWithParam<const char*> {};

TEST_P(ReferenceWiring, IsTheSameCircuit) {
  const std::string folder = std::string(CAROUSEL_SOURCE_DIR) + "/../shared/golden/" + GetParam();
  if (!std::filesystem::exists(folder)) GTEST_SKIP() << folder << " is absent";
  const Json config = read_json_file(folder + "/config.json");
  const Wiring wiring = make_wiring(config["wiring"], config["input_size"].get<int64_t>(), "config.json");
  const auto expected = formats::SafetensorsFile::open(folder + "/expected.safetensors");
  const auto same = [](const Tensor& want, const std::vector<int8_t>& got) {
    return want.count() == static_cast<int64_t>(got.size()) && std::equal(got.begin(), got.end(), want.i32());
  };
  EXPECT_TRUE(same(expected.find("adjacency")->load(), wiring.adjacency));
  EXPECT_TRUE(same(expected.find("sensory_adjacency")->load(), wiring.sensory));
}

INSTANTIATE_TEST_SUITE_P(Shared, ReferenceWiring,
                         testing::Values("ncps-ltc-autoncp", "ncps-ltc-full", "ncps-ltc-ncp", "ncps-ltc-random",
                                         "ncps-wired-cfc"));

TEST(Wiring, AutoNcpShapes) {
  struct Row {
    int64_t units, output, inter, command, motor, sensory_fanout, inter_fanout, recurrent, motor_fanin;
  };
  for (const Row& row :
       {Row{16, 1, 9, 6, 1, 4, 3, 6, 3}, Row{16, 4, 8, 4, 4, 4, 2, 4, 2}, Row{28, 4, 15, 9, 4, 7, 4, 9, 4},
        Row{28, 10, 11, 7, 10, 5, 3, 7, 3}, Row{32, 8, 15, 9, 8, 7, 4, 9, 4}}) {
    const NcpShape shape = auto_ncp_shape(row.units, row.output, 0.5, "test");
    EXPECT_EQ(shape.inter, row.inter);
    EXPECT_EQ(shape.command, row.command);
    EXPECT_EQ(shape.motor, row.motor);
    EXPECT_EQ(shape.sensory_fanout, row.sensory_fanout);
    EXPECT_EQ(shape.inter_fanout, row.inter_fanout);
    EXPECT_EQ(shape.recurrent_command_synapses, row.recurrent);
    EXPECT_EQ(shape.motor_fanin, row.motor_fanin);
  }
}

int64_t fan_out(const Wiring& wiring, int64_t source, const std::vector<int64_t>& layer) {
  return std::count_if(layer.begin(), layer.end(), [&](int64_t dest) { return wiring.synapse(source, dest) != 0; });
}

int64_t fan_in(const Wiring& wiring, const std::vector<int64_t>& layer, int64_t dest) {
  return std::count_if(layer.begin(), layer.end(), [&](int64_t source) { return wiring.synapse(source, dest) != 0; });
}

void check_ncp(const Wiring& wiring, const NcpShape& shape) {
  const auto& [inter, command, motor] = std::tie(wiring.layers[0], wiring.layers[1], wiring.layers[2]);
  for (const int64_t id : inter) {
    int64_t sources = 0;
    for (int64_t i = 0; i < wiring.input_dim; ++i) sources += wiring.sensory_synapse(i, id) != 0;
    EXPECT_GE(sources, 1);
    EXPECT_GE(fan_out(wiring, id, command), shape.inter_fanout);
    EXPECT_EQ(fan_out(wiring, id, inter) + fan_out(wiring, id, motor), 0);
  }
  for (const int64_t id : command) {
    EXPECT_GE(fan_in(wiring, inter, id), 1);
    EXPECT_GE(fan_out(wiring, id, motor), 1);
    EXPECT_EQ(fan_out(wiring, id, inter), 0);
  }
  for (const int64_t id : motor) {
    EXPECT_GE(fan_in(wiring, command, id), shape.motor_fanin);
    EXPECT_EQ(fan_out(wiring, id, inter) + fan_out(wiring, id, command) + fan_out(wiring, id, motor), 0);
  }
  for (int64_t i = 0; i < wiring.input_dim; ++i) {
    int64_t targets = 0;
    for (const int64_t id : inter) targets += wiring.sensory_synapse(i, id) != 0;
    EXPECT_GE(targets, shape.sensory_fanout);
    for (const int64_t id : command) EXPECT_EQ(wiring.sensory_synapse(i, id), 0);
    for (const int64_t id : motor) EXPECT_EQ(wiring.sensory_synapse(i, id), 0);
  }
}

TEST(Wiring, NcpInvariantsHoldForAThousandSeeds) {
  const NcpShape shape = auto_ncp_shape(19, 3, 0.6, "test");
  int64_t synapses = 0, positive = 0;
  for (uint32_t seed = 0; seed < 1000; ++seed) {
    const Wiring wiring = ncp(shape, seed, 1 + seed % 7, "test");
    check_ncp(wiring, shape);
    synapses += wiring.synapse_count();
    positive += std::count(wiring.adjacency.begin(), wiring.adjacency.end(), int8_t{1});
  }
  EXPECT_NEAR(static_cast<double>(positive) / static_cast<double>(synapses), 0.5, 0.02);
}

TEST(Wiring, DenseAndRandomInvariants) {
  int64_t positive = 0, total = 0;
  for (uint64_t seed = 0; seed < 200; ++seed) {
    const double sparsity = static_cast<double>(seed % 10) / 10;
    const Wiring random = random_wiring(9, 4, sparsity, seed, 5);
    EXPECT_EQ(random.synapse_count(), static_cast<int64_t>(std::nearbyint(81 * (1 - sparsity))));
    EXPECT_EQ(random.sensory_synapse_count(), static_cast<int64_t>(std::nearbyint(45 * (1 - sparsity))));
    const Wiring dense = fully_connected(9, 4, seed, false, 5);
    EXPECT_EQ(dense.synapse_count(), 72);
    EXPECT_EQ(dense.sensory_synapse_count(), 45);
    positive += std::count(dense.adjacency.begin(), dense.adjacency.end(), int8_t{1});
    total += dense.synapse_count();
  }
  EXPECT_NEAR(static_cast<double>(positive) / static_cast<double>(total), 2.0 / 3, 0.02);
}

TEST(Wiring, ExplicitMatricesAndRoles) {
  const Wiring wiring = make_wiring(Json::parse(R"({"units": 3, "output_dim": 1, "input_dim": 2,
    "adjacency_matrix": [[0, 1, 0], [-1, 0, 0], [1, 1, 1]], "sensory_adjacency_matrix": [[0, 0, 1], [0, -1, 0]]})"),
                                    2, "test");
  EXPECT_EQ(wiring.synapse(1, 0), -1);
  EXPECT_EQ(wiring.sensory_synapse(1, 1), -1);
  EXPECT_EQ(wiring.synapse_count(), 5);
  EXPECT_EQ(wiring.role(0), Wiring::Role::kMotor);
  EXPECT_EQ(wiring.role(1), Wiring::Role::kInter);
  const Wiring layered = ncp(auto_ncp_shape(16, 1, 0.5, "test"), 1, 2, "test");
  EXPECT_EQ(layered.role(0), Wiring::Role::kMotor);
  EXPECT_EQ(layered.role(1), Wiring::Role::kCommand);
  EXPECT_EQ(layered.role(7), Wiring::Role::kInter);
}

TEST(Wiring, MistakesAreNamed) {
  const auto message = [](const std::string& options) -> std::string {
    try {
      make_wiring(Json::parse(options), 2, "w");
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kInput);
      return error.what();
    }
    return "accepted";
  };
  EXPECT_NE(message(R"({"type": "Ring", "units": 3})").find("FullyConnected, Random, NCP, AutoNCP"), std::string::npos);
  EXPECT_NE(
      message(R"({"type": "AutoNCP", "units": 10, "output_size": 8})").find("\"output_size\" is 8, expected less"),
      std::string::npos);
  EXPECT_NE(message(R"({"type": "AutoNCP", "units": 10, "output_size": 2, "sparsity_level": 0.05})")
                .find("expected 0.1 to 1"),
            std::string::npos);
  const std::string ncp = R"({"type": "NCP", "inter_neurons": 4, "command_neurons": 3, "motor_neurons": 2,
    "recurrent_command_synapses": 2, )";
  EXPECT_NE(
      message(ncp + R"("sensory_fanout": 5, "inter_fanout": 3, "motor_fanin": 3})").find("\"sensory_fanout\" is 5"),
      std::string::npos);
  EXPECT_NE(message(ncp + R"("sensory_fanout": 4, "inter_fanout": 4, "motor_fanin": 3})").find("\"inter_fanout\" is 4"),
            std::string::npos);
  EXPECT_NE(message(ncp + R"("sensory_fanout": 4, "inter_fanout": 3, "motor_fanin": 4})").find("\"motor_fanin\" is 4"),
            std::string::npos);
  EXPECT_NE(message(R"({"type": "Random", "units": 4, "sparsity_level": 1.0})").find("sparsity_level"),
            std::string::npos);
  EXPECT_NE(message(R"({"type": "Random", "units": 4, "seed": 3})").find("seed"), std::string::npos);
  EXPECT_NE(message(R"({"type": "FullyConnected", "units": 1000000})").find("units"), std::string::npos);
  EXPECT_NE(message(R"({"type": "FullyConnected", "units": 4, "output_dim": 5})").find("output_dim"),
            std::string::npos);
  EXPECT_NE(
      message(R"({"units": 1, "adjacency_matrix": [[2]], "sensory_adjacency_matrix": [[0], [0]]})").find("holds 2"),
      std::string::npos);
  EXPECT_NE(message(R"({"units": 1, "adjacency_matrix": [[1]], "sensory_adjacency_matrix": [[0]]})").find("has 1 rows"),
            std::string::npos);
  EXPECT_NE(message(R"({"units": 1, "input_dim": 3, "adjacency_matrix": [[1]], "sensory_adjacency_matrix": []})")
                .find("\"input_dim\" is 3"),
            std::string::npos);
}

}  // namespace
}  // namespace carousel::blocks
