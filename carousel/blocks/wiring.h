// SPDX-License-Identifier: Apache-2.0
// Wirings of Neural Circuit Policies (Lechner et al., Nature Machine Intelligence 2020): which neuron feeds which, and
// with which sign. The generators draw exactly what the public implementation (ncps 1.0.1) draws, so that a seed gives
// the same circuit.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "carousel/core/json.h"

namespace carousel::blocks {

struct Wiring {
  enum class Role : uint8_t { kInter, kCommand, kMotor };

  std::string type;               // "FullyConnected", "Random", "NCP", "AutoNCP", or "Wiring" for explicit matrices
  int64_t units = 0;              // N
  int64_t input_dim = 0;          // I
  int64_t output_dim = 0;         // M: the neurons 0..M-1 are motor neurons
  std::vector<int8_t> adjacency;  // [N, N] source, destination: +1 excitatory, -1 inhibitory, 0 none
  std::vector<int8_t> sensory;    // [I, N] input, destination
  /// Ids of the neurons, ascending, by the layer in which a step computes them: inter, command and motor for the NCPs,
  /// else one layer.
  std::vector<std::vector<int64_t>> layers;

  int8_t synapse(int64_t source, int64_t dest) const { return adjacency[static_cast<size_t>(source * units + dest)]; }
  int8_t sensory_synapse(int64_t input, int64_t dest) const {
    return sensory[static_cast<size_t>(input * units + dest)];
  }
  Role role(int64_t neuron) const;
  int64_t synapse_count() const;
  int64_t sensory_synapse_count() const;
};

/// Most neurons, and most entries of a matrix, a wiring may have.
constexpr int64_t kMaxWiringUnits = 8192;
constexpr int64_t kMaxWiringEntries = int64_t{1} << 27;

/// Draws or copies the circuit for `input_dim` inputs that `options` describes: {"type": ..., ...} with the
/// constructor arguments of ncps, or its get_config() with "adjacency_matrix" and "sensory_adjacency_matrix".
/// Throws Error(kInput) naming the key, got and expected; unknown keys are refused.
Wiring make_wiring(const Json& options, int64_t input_dim, const std::string& where);

/// Whether `value` describes a circuit: an object with a circuit's "type" or matrices, not wirings by projection.
bool is_circuit(const Json& value);
/// The list "key" of `rows` lists of `cols` numbers, each -1, 0 or 1. Throws Error(kInput).
std::vector<int8_t> read_signs(Fields& fields, const char* key, int64_t rows, int64_t cols);

/// All to all, excitatory with probability 2/3 (the reference's default for a cell of `units`).
Wiring fully_connected(int64_t units, int64_t output_dim, uint64_t seed, bool self_connections, int64_t input_dim);
/// round(N^2 (1 - sparsity)) synapses, any to any.
Wiring random_wiring(int64_t units, int64_t output_dim, double sparsity, uint64_t seed, int64_t input_dim);

/// Sensory -> inter -> command (recurrent) -> motor.
struct NcpShape {
  int64_t inter = 0, command = 0, motor = 0;
  int64_t sensory_fanout = 0, inter_fanout = 0;
  int64_t recurrent_command_synapses = 0;
  int64_t motor_fanin = 0;
};
/// Throws Error(kInput) for a fan-out or fan-in beyond the layer it reaches.
Wiring ncp(const NcpShape& shape, uint32_t seed, int64_t input_dim, const std::string& where);
/// The shape AutoNCP chooses. Throws Error(kInput) unless output_size < units - 2 and 0.1 <= sparsity <= 1.
NcpShape auto_ncp_shape(int64_t units, int64_t output_size, double sparsity, const std::string& where);

}  // namespace carousel::blocks
