// SPDX-License-Identifier: Apache-2.0
// Appends to the logs of a run, cuts them where a run resumes, and reads them back.
#include "carousel/train/run_log.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstring>
#include <optional>

#include "carousel/core/error.h"
#include "carousel/core/json.h"
#include "carousel/formats/mapped_file.h"

namespace carousel::train {
namespace {

// One name for all of a run: viewers read every file of a folder whose name has the middle part.
constexpr const char* kEvents = "events.out.tfevents.0.carousel";
constexpr size_t kMaxLineBytes = size_t{16} << 20;

double wall_time() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

/// Calls take(line, number) for each whole line until it returns false; returns the bytes of the lines taken.
template <class F>
size_t each_line(std::string_view text, const F& take) {
  size_t at = 0;
  for (int64_t number = 1; at < text.size(); ++number) {
    const size_t end = text.find('\n', at);
    if (end == text.npos || !take(text.substr(at, end - at), number)) break;
    at = end + 1;
  }
  return at;
}

std::optional<int64_t> step_of(const Json& line) {
  const auto step = line.is_object() ? line.find("step") : line.end();
  if (!line.is_object() || step == line.end() || !step->is_number_integer()) return std::nullopt;
  return step->get<int64_t>();
}

// A line that cannot be read ends the log: a power cut may leave zeros there.
size_t lines_until(std::string_view text, const std::string& path, int64_t last_step) {
  return each_line(text, [&](std::string_view line, int64_t) {
    try {
      const std::optional<int64_t> step = step_of(parse_json(line, path, {kMaxLineBytes, 8}));
      return step && *step <= last_step;
    } catch (const Error&) {
      return false;
    }
  });
}

std::string_view text_of(const formats::MappedFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

}  // namespace

RunLog::File::File(const std::string& path)
    : path_(path), descriptor_(::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666)) {
  if (descriptor_ < 0) fail(ErrorKind::kIo, "{}: cannot create: {}", path, std::strerror(errno));
}

RunLog::File::~File() { ::close(descriptor_); }

void RunLog::File::refuse(int error) const {
  fail(ErrorKind::kIo, "{}: cannot write: {}", path_, std::strerror(error));
}

void RunLog::File::cut(size_t size_bytes) {
  if (::ftruncate(descriptor_, static_cast<off_t>(size_bytes)) != 0) refuse(errno);
}

void RunLog::File::write(const std::string& bytes) {
  const ssize_t count = ::write(descriptor_, bytes.data(), bytes.size());
  if (count != static_cast<ssize_t>(bytes.size())) refuse(count < 0 ? errno : ENOSPC);
}

void RunLog::File::flush() {
  if (::fdatasync(descriptor_) != 0) refuse(errno);
}

RunLog::RunLog(const std::string& folder, int64_t last_step)
    : lines_(folder + "/" + kRunLines), events_(folder + "/" + kEvents) {
  size_t lines = 0, events = 0;  // bytes that are kept
  if (last_step > 0) {
    lines = lines_until(text_of(*formats::MappedFile::open(lines_.path())), lines_.path(), last_step);
    events = events_until(text_of(*formats::MappedFile::open(events_.path())), last_step);
  }
  lines_.cut(lines);
  events_.cut(events);
  if (events == 0) events_.write(first_event(wall_time()));
}

void RunLog::add(int64_t step, std::span<const Measure> measures) {
  std::string line = fmt::format("{{\"step\": {}", step);
  std::vector<Measure> finite;
  for (const Measure& measure : measures) {
    const bool is_finite = std::isfinite(measure.value);
    line += fmt::format(", {}: {}", Json(measure.name).dump(), is_finite ? fmt::format("{}", measure.value) : "null");
    if (is_finite) finite.push_back(measure);
  }
  lines_.write(line + "}\n");
  events_.write(event_of(step, wall_time(), finite));
}

void RunLog::add(int64_t step, const std::string& name, const std::string& text) {
  const Json value(text);
  lines_.write(fmt::format("{{\"step\": {}, {}: {}}}\n", step, Json(name).dump(),
                           value.dump(-1, ' ', false, Json::error_handler_t::replace)));
}

void RunLog::flush() {
  lines_.flush();
  events_.flush();
}

std::vector<LogLine> read_log(const std::string& folder) {
  const std::string path = folder + "/" + kRunLines;
  const auto file = formats::MappedFile::open(path);
  std::vector<LogLine> out;
  each_line(text_of(*file), [&](std::string_view text, int64_t number) {
    const std::string where = fmt::format("{}:{}", path, number);
    const Json line = parse_json(text, where, {kMaxLineBytes, 8});
    const std::optional<int64_t> step = step_of(line);
    if (!step) fail(ErrorKind::kInput, "{}: no \"step\", expected the log of a run", where);
    LogLine read{*step, {}};
    for (const auto& [name, value] : line.items()) {
      if (name != "step" && value.is_number()) read.measures.push_back({name, value.get<double>()});
    }
    out.push_back(std::move(read));
    return true;
  });
  return out;
}

}  // namespace carousel::train
