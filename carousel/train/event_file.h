// SPDX-License-Identifier: Apache-2.0
// Event files of TensorBoard: numbers by name and step. A file is records (TFRecord), each a message Event of protocol
// buffers (tensorboard/compat/proto/event.proto).
//
// | bytes of a record | what                                |
// |-------------------|-------------------------------------|
// | 0 .. 7            | u64: n, the length of the message   |
// | 8 .. 11           | u32: masked CRC-32C of these 8      |
// | 12 .. 11 + n      | the message                         |
// | 12 + n .. 15 + n  | u32: masked CRC-32C of the message  |
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace carousel::train {

/// A number of a step.
struct Measure {
  std::string name;
  double value = 0;
};

/// CRC-32C (Castagnoli), as TFRecord has it before masking.
uint32_t crc32c(std::string_view bytes);

/// The record that an event file begins with.
std::string first_event(double wall_time);
/// The record of a step's numbers.
std::string event_of(int64_t step, double wall_time, std::span<const Measure> measures);
/// The bytes of the records up to and with the last one of a step <= `step`, counted to the first record that is
/// damaged, cut short or of a later step.
size_t events_until(std::string_view file, int64_t step);

}  // namespace carousel::train
