// SPDX-License-Identifier: Apache-2.0
// Circuits of neurons, drawn or copied. The draws follow the reference synapse by synapse: their order decides which
// circuit a seed gives.
#include "carousel/blocks/wiring.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "carousel/core/error.h"
#include "carousel/core/numpy_random.h"

namespace carousel::blocks {
namespace {

constexpr uint64_t kDenseSeed = 1111;
constexpr uint32_t kNcpSeed = 22222;

Wiring empty_wiring(const char* type, int64_t units, int64_t output_dim, int64_t input_dim) {
  Wiring wiring;
  wiring.type = type;
  wiring.units = units;
  wiring.input_dim = input_dim;
  wiring.output_dim = output_dim;
  wiring.adjacency.resize(static_cast<size_t>(units * units));
  wiring.sensory.resize(static_cast<size_t>(input_dim * units));
  wiring.layers.resize(1);
  for (int64_t id = 0; id < units; ++id) wiring.layers[0].push_back(id);
  return wiring;
}

/// choice([-1, +1, +1])
int8_t mostly_positive(NumpyGenerator& random) { return random.choice(3) == 0 ? -1 : 1; }

int64_t count_synapses(const std::vector<int8_t>& matrix) {
  return std::count_if(matrix.begin(), matrix.end(), [](int8_t sign) { return sign != 0; });
}

/// The neurons first, first + 1, ... of one layer.
struct Layer {
  int64_t first, count;
};

int64_t repair_count(int64_t others, int64_t fan, int64_t layer) {
  return std::clamp<int64_t>(others * fan / layer, 1, others);
}

class NcpBuilder {
 public:
  NcpBuilder(const NcpShape& shape, uint32_t seed, Wiring& wiring) : shape_(shape), random_(seed), wiring_(wiring) {}

  void build() {
    const Layer sensory{0, wiring_.input_dim};
    const Layer motor{0, shape_.motor};
    const Layer command{shape_.motor, shape_.command};
    const Layer inter{shape_.motor + shape_.command, shape_.inter};
    fan_out(sensory, inter, shape_.sensory_fanout, wiring_.sensory);
    fan_out(inter, command, shape_.inter_fanout, wiring_.adjacency);
    for (int64_t i = 0; i < shape_.recurrent_command_synapses; ++i) {
      const int64_t source = command.first + random_.choice(shape_.command);
      const int64_t dest = command.first + random_.choice(shape_.command);
      add(wiring_.adjacency, source, dest);
    }
    fan_in(command, motor, shape_.motor_fanin);
  }

 private:
  void add(std::vector<int8_t>& matrix, int64_t source, int64_t dest) {
    matrix[static_cast<size_t>(source * wiring_.units + dest)] = random_.choice(2) == 0 ? -1 : 1;
  }
  // Every source reaches `fan` neurons; a neuron that none reached then gets sources.
  void fan_out(const Layer& from, const Layer& to, int64_t fan, std::vector<int8_t>& matrix) {
    std::vector<bool> reached(static_cast<size_t>(to.count));
    for (int64_t i = 0; i < from.count; ++i) {
      for (const int64_t j : random_.choice(to.count, fan)) {
        reached[static_cast<size_t>(j)] = true;
        add(matrix, from.first + i, to.first + j);
      }
    }
    const int64_t repairs = repair_count(from.count, fan, to.count);
    for (int64_t j = 0; j < to.count; ++j) {
      if (reached[static_cast<size_t>(j)]) continue;
      for (const int64_t i : random_.choice(from.count, repairs)) add(matrix, from.first + i, to.first + j);
    }
  }
  // Every destination hears `fan` neurons; a neuron that none heard then gets destinations.
  void fan_in(const Layer& from, const Layer& to, int64_t fan) {
    std::vector<bool> reached(static_cast<size_t>(from.count));
    for (int64_t j = 0; j < to.count; ++j) {
      for (const int64_t i : random_.choice(from.count, fan)) {
        reached[static_cast<size_t>(i)] = true;
        add(wiring_.adjacency, from.first + i, to.first + j);
      }
    }
    const int64_t repairs = repair_count(to.count, fan, from.count);
    for (int64_t i = 0; i < from.count; ++i) {
      if (reached[static_cast<size_t>(i)]) continue;
      for (const int64_t j : random_.choice(to.count, repairs)) {
        add(wiring_.adjacency, from.first + i, to.first + j);
      }
    }
  }

  const NcpShape& shape_;
  NumpyRandomState random_;
  Wiring& wiring_;
};

int64_t read_units(Fields& fields, int64_t input_dim) {
  const int64_t units = fields.integer("units", 1, kMaxWiringUnits);
  if (units * units > kMaxWiringEntries || input_dim > kMaxWiringEntries / units) {
    fail(ErrorKind::kInput, "{}: {} units and {} inputs, expected at most {} entries in a wiring matrix",
         fields.where(), units, input_dim, kMaxWiringEntries);
  }
  return units;
}

uint64_t read_seed(Fields& fields, const char* key, uint64_t fallback, int64_t max) {
  return static_cast<uint64_t>(fields.integer(key, 0, max, static_cast<int64_t>(fallback)));
}

Wiring explicit_wiring(Fields& fields, int64_t input_dim) {
  const int64_t units = read_units(fields, input_dim);
  const int64_t output_dim = fields.integer("output_dim", 1, units, units);
  Wiring wiring = empty_wiring("Wiring", units, output_dim, input_dim);
  const int64_t own_inputs = fields.integer("input_dim", 1, kMaxWiringEntries, input_dim);
  if (own_inputs != input_dim) {
    fail(ErrorKind::kInput, "{}: \"input_dim\" is {}, expected {} (features of a row)", fields.where(), own_inputs,
         input_dim);
  }
  wiring.adjacency = read_signs(fields, "adjacency_matrix", units, units);
  wiring.sensory = read_signs(fields, "sensory_adjacency_matrix", input_dim, units);
  return wiring;
}

NcpShape read_ncp_shape(Fields& fields) {
  NcpShape shape;
  shape.inter = fields.integer("inter_neurons", 1, kMaxWiringUnits);
  shape.command = fields.integer("command_neurons", 1, kMaxWiringUnits);
  shape.motor = fields.integer("motor_neurons", 1, kMaxWiringUnits);
  shape.sensory_fanout = fields.integer("sensory_fanout", 1, kMaxWiringUnits);
  shape.inter_fanout = fields.integer("inter_fanout", 1, kMaxWiringUnits);
  shape.recurrent_command_synapses = fields.integer("recurrent_command_synapses", 0, kMaxWiringEntries);
  shape.motor_fanin = fields.integer("motor_fanin", 1, kMaxWiringUnits);
  return shape;
}

}  // namespace

Wiring::Role Wiring::role(int64_t neuron) const {
  if (neuron < output_dim) return Role::kMotor;
  const bool command = layers.size() == 3 && std::binary_search(layers[1].begin(), layers[1].end(), neuron);
  return command ? Role::kCommand : Role::kInter;
}

int64_t Wiring::synapse_count() const { return count_synapses(adjacency); }
int64_t Wiring::sensory_synapse_count() const { return count_synapses(sensory); }

Wiring fully_connected(int64_t units, int64_t output_dim, uint64_t seed, bool self_connections, int64_t input_dim) {
  Wiring wiring = empty_wiring("FullyConnected", units, output_dim, input_dim);
  NumpyGenerator random(seed);
  for (int64_t i = 0; i < units * units; ++i) {
    if (!self_connections && i / units == i % units) continue;
    wiring.adjacency[static_cast<size_t>(i)] = mostly_positive(random);
  }
  for (int8_t& sign : wiring.sensory) sign = mostly_positive(random);
  return wiring;
}

Wiring random_wiring(int64_t units, int64_t output_dim, double sparsity, uint64_t seed, int64_t input_dim) {
  Wiring wiring = empty_wiring("Random", units, output_dim, input_dim);
  NumpyGenerator random(seed);
  const auto synapses = [&](int64_t pairs) {  // nearbyint: half to even, as Python rounds
    return static_cast<int64_t>(std::nearbyint(static_cast<double>(pairs) * (1 - sparsity)));
  };
  for (const int64_t pair : random.choice(units * units, synapses(units * units))) {
    wiring.adjacency[static_cast<size_t>(pair)] = mostly_positive(random);
  }
  for (const int64_t pair : random.choice(input_dim * units, synapses(input_dim * units))) {
    mostly_positive(random);  // the reference draws a sensory sign twice and keeps the second
    wiring.sensory[static_cast<size_t>(pair)] = mostly_positive(random);
  }
  return wiring;
}

Wiring ncp(const NcpShape& shape, uint32_t seed, int64_t input_dim, const std::string& where) {
  const auto check = [&](const char* key, int64_t fan, const char* layer, int64_t count) {
    if (fan > count) {
      fail(ErrorKind::kInput, "{}: \"{}\" is {}, expected at most the {} {} neurons", where, key, fan, count, layer);
    }
  };
  check("sensory_fanout", shape.sensory_fanout, "inter", shape.inter);
  check("inter_fanout", shape.inter_fanout, "command", shape.command);
  check("motor_fanin", shape.motor_fanin, "command", shape.command);
  const int64_t units = shape.inter + shape.command + shape.motor;
  if (units > kMaxWiringUnits || input_dim > kMaxWiringEntries / units) {
    fail(ErrorKind::kInput, "{}: {} neurons and {} inputs, expected at most {} neurons and {} entries in a matrix",
         where, units, input_dim, kMaxWiringUnits, kMaxWiringEntries);
  }
  Wiring wiring = empty_wiring("NCP", units, shape.motor, input_dim);
  NcpBuilder(shape, seed, wiring).build();
  const std::vector<int64_t> all = wiring.layers[0];
  const auto command = all.begin() + shape.motor;
  const auto inter = command + shape.command;
  wiring.layers = {{inter, all.end()}, {command, inter}, {all.begin(), command}};
  return wiring;
}

NcpShape auto_ncp_shape(int64_t units, int64_t output_size, double sparsity, const std::string& where) {
  if (output_size >= units - 2) {
    fail(ErrorKind::kInput, "{}: \"output_size\" is {}, expected less than units - 2 = {}", where, output_size,
         units - 2);
  }
  if (!(sparsity >= 0.1 && sparsity <= 1.0)) {
    fail(ErrorKind::kInput, "{}: \"sparsity_level\" is {:g}, expected 0.1 to 1", where, sparsity);
  }
  const double density = 1 - sparsity;
  const auto share = [](double exact) { return std::max<int64_t>(static_cast<int64_t>(exact), 1); };
  NcpShape shape;
  const int64_t hidden = units - output_size;
  shape.motor = output_size;
  shape.command = share(0.4 * static_cast<double>(hidden));
  shape.inter = hidden - shape.command;
  shape.sensory_fanout = share(static_cast<double>(shape.inter) * density);
  shape.inter_fanout = share(static_cast<double>(shape.command) * density);
  shape.recurrent_command_synapses = share(static_cast<double>(shape.command * 2) * density);
  shape.motor_fanin = share(static_cast<double>(shape.command) * density);
  return shape;
}

bool is_circuit(const Json& value) {
  if (!value.is_object()) return false;
  const auto type = value.find("type");
  return (type != value.end() && !type->is_object()) || value.contains("adjacency_matrix");
}

std::vector<int8_t> read_signs(Fields& fields, const char* key, int64_t rows, int64_t cols) {
  const Json* value = fields.raw(key);
  const auto refuse = [&](const std::string& got) {
    fail(ErrorKind::kInput, "{}: \"{}\" {}, expected [{}, {}] numbers -1, 0 or 1", fields.where(), key, got, rows,
         cols);
  };
  if (value == nullptr) refuse("is missing");
  if (!value->is_array() || static_cast<int64_t>(value->size()) != rows) {
    refuse(value->is_array() ? fmt::format("has {} rows", value->size()) : "is " + brief(*value));
  }
  std::vector<int8_t> matrix;
  for (const Json& row : *value) {
    if (!row.is_array() || static_cast<int64_t>(row.size()) != cols) refuse("has the row " + brief(row));
    for (const Json& entry : row) {
      const bool sign = entry.is_number() && (entry == 0 || entry == 1 || entry == -1);
      if (!sign) refuse("holds " + brief(entry));
      matrix.push_back(static_cast<int8_t>(entry.get<double>()));
    }
  }
  return matrix;
}

Wiring make_wiring(const Json& options, int64_t input_dim, const std::string& where) {
  Fields fields(options, where);
  const bool matrices = fields.has("adjacency_matrix");
  const std::string type = fields.choice("type", {"FullyConnected", "Random", "NCP", "AutoNCP", "Wiring"},
                                         matrices ? std::optional<std::string>("Wiring") : std::nullopt);
  Wiring wiring;
  if (type == "Wiring") {
    wiring = explicit_wiring(fields, input_dim);
  } else if (type == "FullyConnected") {
    const int64_t units = read_units(fields, input_dim);
    const int64_t outputs = fields.integer("output_dim", 1, units, units);
    const uint64_t seed = read_seed(fields, "erev_init_seed", kDenseSeed, INT64_MAX);
    wiring = fully_connected(units, outputs, seed, fields.boolean("self_connections", true), input_dim);
  } else if (type == "Random") {
    const int64_t units = read_units(fields, input_dim);
    const int64_t outputs = fields.integer("output_dim", 1, units, units);
    const double sparsity = fields.number("sparsity_level", 0, std::nextafter(1.0, 0.0), 0.0);
    wiring =
        random_wiring(units, outputs, sparsity, read_seed(fields, "random_seed", kDenseSeed, INT64_MAX), input_dim);
  } else {
    NcpShape shape;
    if (type == "NCP") {
      shape = read_ncp_shape(fields);
    } else {
      const int64_t units = read_units(fields, input_dim);
      const int64_t outputs = fields.integer("output_size", 1, units);
      shape = auto_ncp_shape(units, outputs, fields.number("sparsity_level", 0, 1, 0.5), where);
    }
    const auto seed = static_cast<uint32_t>(read_seed(fields, "seed", kNcpSeed, UINT32_MAX));
    wiring = ncp(shape, seed, input_dim, where);
    wiring.type = type;
  }
  fields.finish();
  return wiring;
}

}  // namespace carousel::blocks
