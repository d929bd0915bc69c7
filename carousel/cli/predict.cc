// SPDX-License-Identifier: Apache-2.0
// carousel predict: rows of features through a model that is no language model, from a file or row by row from stdin,
// with the state kept between rows and, in a file, between runs.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "carousel/cli/command.h"
#include "carousel/cli/compute_options.h"
#include "carousel/cli/generation.h"
#include "carousel/cli/options.h"
#include "carousel/cli/output_path.h"
#include "carousel/cli/progress.h"
#include "carousel/cli/signals.h"
#include "carousel/cli/weight_options.h"
#include "carousel/core/error.h"
#include "carousel/core/json.h"
#include "carousel/formats/csv.h"
#include "carousel/formats/npy.h"
#include "carousel/formats/number_table.h"
#include "carousel/model/cost.h"
#include "carousel/model/load.h"
#include "carousel/model/profile.h"
#include "carousel/model/saved_state.h"
#include "carousel/text/unicode.h"

namespace carousel::cli {
namespace {

constexpr int64_t kSlabRows = 4096;  // rows of one forward: bounds the activations of a long file
constexpr size_t kMaxLineBytes = size_t{1} << 24;
constexpr const char* kLastColumn = "last";

struct PredictOptions {
  std::string model, input, timespans, output, save_state, load_state;
  std::string profile = "native", decimal = "point";
  WeightOptions weights;
  Machine machine;
};

/// Features of sequences of one length, and the time before each row.
struct Rows {
  Tensor x;            // [B, T, I]
  Tensor elapsed;      // [B, T], or empty: 1 everywhere
  bool batch = false;  // given with the dimension B
};

bool is_npy(const std::string& path) { return path.ends_with(".npy"); }

char decimal_of(const PredictOptions& options) { return options.decimal == "comma" ? ',' : '.'; }

/// Splits the last column of [N, I + 1] off.
void split_last(const Tensor& values, Tensor& x, Tensor& last) {
  const int64_t rows = values.dim(0), columns = values.dim(1);
  x = Tensor(Shape{rows, columns - 1}, DType::kF32);
  last = Tensor(Shape{rows}, DType::kF32);
  for (int64_t n = 0; n < rows; ++n) {
    const float* row = values.f32() + n * columns;
    std::copy(row, row + columns - 1, x.f32() + n * (columns - 1));
    last.f32()[n] = row[columns - 1];
  }
}

Rows read_rows(const PredictOptions& options, int64_t inputs) {
  const bool last = options.timespans == kLastColumn;
  Tensor values = formats::read_numbers(options.input, decimal_of(options));
  const int rank = values.shape().rank();
  if (rank == 1 && inputs == 1) values = values.reshape(Shape{values.dim(0), 1});
  const int64_t width = values.dim(-1);
  if (values.shape().rank() < 2 || rank > 3 || width != inputs + last) {
    fail(ErrorKind::kInput, "{}: shape {}, expected [T, {}] or [B, T, {}]{}", options.input, values.shape().str(),
         inputs + last, inputs + last, last ? " with the elapsed times in the last column" : "");
  }
  Rows rows;
  rows.batch = rank == 3;
  const int64_t batch = rows.batch ? values.dim(0) : 1, length = values.dim(rows.batch ? 1 : 0);
  rows.x = values.reshape(Shape{batch * length, width});
  if (last) split_last(values.reshape(Shape{batch * length, width}), rows.x, rows.elapsed);
  if (!last && !options.timespans.empty()) {
    rows.elapsed = formats::read_row_times(options.timespans, decimal_of(options), batch, length, options.input);
  }
  rows.x = rows.x.reshape(Shape{batch, length, inputs});
  if (rows.elapsed.defined()) rows.elapsed = rows.elapsed.reshape(Shape{batch, length});
  return rows;
}

/// Throws for a result that is not finite: features near the end of float32's range may overflow.
void check_result(const Tensor& y, const std::string& where) {
  for (int64_t i = 0; i < y.count(); ++i) {
    if (std::isfinite(y.f32()[i])) continue;
    fail(ErrorKind::kInput, "{}: output {} is {}, expected a finite number: the features overflow float32 on their way",
         where, i % y.dim(-1), y.f32()[i]);
  }
}

/// "0.25,-1\n": every number in the shortest form that reads back the same.
std::string csv_line(const float* values, int64_t count) {
  std::string line;
  for (int64_t j = 0; j < count; ++j) line += fmt::format("{}{}", j > 0 ? "," : "", values[j]);
  return line + "\n";
}

class Prediction {
 public:
  Prediction(const PredictOptions& options, const model::Model& model, const Stream& stream)
      : options_(options), model_(model), stream_(stream), predictor_(*model.regressor, stream, *model.numerics) {
    if (!options.load_state.empty()) state_ = model::load_state(options.load_state, model).state;
  }

  int run() {
    if (options_.input.empty()) {
      run_stdin();
    } else {
      run_file();
    }
    end_by_itself();
    save(state_);
    return interrupted() ? kInterruptedStatus : output_.closed() ? kBrokenPipeStatus : 0;
  }

 private:
  void save(const State& state) const {
    if (!options_.save_state.empty()) model::save_state(options_.save_state, {state, {}, {}}, model_);
  }
  void run_file();
  void run_stdin();
  Tensor compute(const Rows& rows);
  void take_line(std::string text, int64_t line);
  void run_line(const std::string& text, int64_t line);

  const PredictOptions& options_;
  const model::Model& model_;
  const Stream& stream_;
  model::Predictor predictor_;
  State state_;
  Output output_;
};

// Runs all sequences together, slab by slab -> [B, T, O]. After a signal the rest is zeros.
Tensor Prediction::compute(const Rows& rows) {
  const int64_t batch = rows.x.dim(0), length = rows.x.dim(1), inputs = rows.x.dim(2);
  const int64_t outputs = model_.regressor->output_size();
  Tensor y(Shape{batch, length, outputs}, DType::kF32);
  if (batch == 0 || length == 0) return y;  // a shape may count any number of empty sequences: they have no states
  std::vector<State> others(static_cast<size_t>(batch - 1));
  std::vector<State*> states{&state_};
  for (State& state : others) states.push_back(&state);
  const int64_t slab = std::max<int64_t>(1, kSlabRows / batch);
  model::check_rows(*model_.regressor, stream_, options_.input, batch, std::min(slab, length));
  Progress bar("rows", length);
  const auto read = [this, length](int64_t count) {
    note(fmt::format("interrupted, {} of {} rows read{}", with_commas(count), with_commas(length),
                     options_.save_state.empty() ? "" : fmt::format("; {} holds their state", options_.save_state)));
  };
  for (int64_t begin = 0; begin < length; begin += slab) {
    if (interrupted()) {
      read(begin);
      return y;
    }
    set_last_will([this, read, begin, state = state_] {
      save(state);
      read(begin);
    });
    const int64_t count = std::min(slab, length - begin);
    const Tensor x(Shape{batch * count, inputs}, DType::kF32);
    const Tensor elapsed = rows.elapsed.defined() ? Tensor(Shape{batch * count}, DType::kF32) : Tensor();
    for (int64_t s = 0; s < batch; ++s) {
      const int64_t from = s * length + begin;
      std::copy_n(rows.x.f32() + from * inputs, count * inputs, x.f32() + s * count * inputs);
      if (elapsed.defined()) std::copy_n(rows.elapsed.f32() + from, count, elapsed.f32() + s * count);
    }
    const std::vector<int64_t> lengths(states.size(), count);
    const Tensor part = predictor_.forward(x, elapsed, states, lengths).to_host();
    for (int64_t s = 0; s < batch; ++s) {
      std::copy_n(part.f32() + s * count * outputs, count * outputs, y.f32() + (s * length + begin) * outputs);
    }
    bar.update(begin + count);
  }
  set_last_will([this, state = state_] { save(state); });
  return y;
}

void Prediction::run_file() {
  const Rows rows = read_rows(options_, model_.regressor->input_size());
  const int64_t batch = rows.x.dim(0), length = rows.x.dim(1), outputs = model_.regressor->output_size();
  if (batch != 1 && (!options_.load_state.empty() || !options_.save_state.empty())) {
    fail(ErrorKind::kInput, "{}: {} sequences, expected 1 where a state is saved or loaded", options_.input, batch);
  }
  const Tensor y = compute(rows);
  if (interrupted()) return;
  check_result(y, options_.input);
  if (is_npy(options_.output)) {
    formats::write_npy(options_.output, rows.batch ? y : y.reshape(Shape{length, outputs}));
    return;
  }
  std::string text;  // sequences of a batch follow each other
  for (int64_t n = 0; n < batch * length; ++n) text += csv_line(y.f32() + n * outputs, outputs);
  if (options_.output.empty()) {
    output_.write(text);
  } else {
    write_text_file(options_.output, text);
  }
}

/// Numbers between commas, semicolons, tabs or spaces. False: some cell is no number, or there is none between two.
bool parse_line(const std::string& text, std::vector<float>& out) {
  constexpr const char* kBetween = ",; \t\r";
  out.clear();
  if (text.find_first_not_of(kBetween) == std::string::npos) return true;  // the line is blank
  bool delimited = true;  // a comma or semicolon before the next number
  for (const char c : text) {
    if (c != ',' && c != ';') {
      delimited = delimited && std::strchr(kBetween, c) != nullptr;
      continue;
    }
    if (delimited) return false;
    delimited = true;
  }
  for (size_t begin = text.find_first_not_of(kBetween); begin != std::string::npos;) {
    const size_t end = std::min(text.find_first_of(kBetween, begin), text.size());
    const std::optional<double> number = formats::csv_number(std::string_view(text).substr(begin, end - begin));
    if (!number || !std::isfinite(static_cast<float>(*number))) return false;
    out.push_back(static_cast<float>(*number));
    begin = text.find_first_not_of(kBetween, end);
  }
  return true;
}

/// Whether the first cell is a word.
bool begins_with_name(const std::string& text) {
  const size_t begin = text.find_first_not_of(" \t\"");
  const bool letter = begin != std::string::npos && std::isalpha(static_cast<unsigned char>(text[begin])) != 0;
  return letter && !formats::csv_number(text.substr(0, text.find_first_of(",; \t\r")));
}

void Prediction::run_line(const std::string& text, int64_t line) {
  const int64_t inputs = model_.regressor->input_size();
  const bool timed = options_.timespans == kLastColumn;
  // An error line that quotes the text would end there.
  if (text.find('\0') != text.npos) fail(ErrorKind::kInput, "stdin:{}: a NUL byte, expected text in UTF-8", line);
  std::vector<float> numbers;
  const bool parsed = parse_line(text, numbers);
  if (parsed && numbers.empty()) return;                       // a blank line
  if (!parsed && line == 1 && begins_with_name(text)) return;  // the columns' names
  if (!parsed || static_cast<int64_t>(numbers.size()) != inputs + timed) {
    fail(ErrorKind::kInput, "stdin:{}: got \"{}\", expected {} finite numbers{}", line, text.substr(0, 60),
         inputs + timed, timed ? ", the elapsed time last" : "");
  }
  const Tensor x(Shape{1, inputs}, DType::kF32);
  const Tensor elapsed = timed ? Tensor(Shape{1}, DType::kF32) : Tensor();
  std::copy_n(numbers.begin(), inputs, x.f32());
  if (timed) elapsed.f32()[0] = numbers.back();
  State* const states[] = {&state_};
  const int64_t lengths[] = {1};
  const Tensor y = predictor_.forward(x, elapsed, states, lengths).to_host();
  check_result(y, fmt::format("stdin:{}", line));
  output_.write(csv_line(y.f32(), y.dim(1)));
}

// A byte order mark before the first row is no part of it.
void Prediction::take_line(std::string text, int64_t line) {
  if (line == 1) text = text::without_byte_order_mark(text);
  if (line == 1 && (text.starts_with("\xFF\xFE") || text.starts_with("\xFE\xFF"))) {
    fail(ErrorKind::kInput, "stdin:1: UTF-16, expected UTF-8");
  }
  run_line(text, line);
}

// A row's result is printed before the next row is waited for.
void Prediction::run_stdin() {
  std::string pending;
  int64_t line = 0;
  end_by_itself();  // a row is short
  char buffer[1 << 16];
  while (!interrupted() && !output_.closed()) {
    if (!wait_readable(STDIN_FILENO)) return;
    const ssize_t count = read(STDIN_FILENO, buffer, sizeof buffer);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail(ErrorKind::kIo, "stdin: cannot read: {}", std::strerror(errno));
    pending.append(buffer, static_cast<size_t>(count));
    size_t begin = 0;
    for (size_t end; !interrupted() && !output_.closed() && (end = pending.find('\n', begin)) != std::string::npos;
         begin = end + 1) {
      take_line(pending.substr(begin, end - begin), ++line);
    }
    pending.erase(0, begin);
    if (interrupted() || output_.closed()) return;
    if (pending.size() > kMaxLineBytes) {
      fail(ErrorKind::kInput, "stdin:{}: more than {} bytes in a line, expected at most that", line + 1, kMaxLineBytes);
    }
    if (count == 0) {
      if (!pending.empty()) take_line(pending, ++line);
      return;
    }
  }
}

/// Finds failures that can be foreseen before a long run.
void check_options(const PredictOptions& options) {
  if (options.input.empty() && !options.output.empty()) {
    fail(ErrorKind::kUsage, "--output: got \"{}\" without --input, expected both; rows of stdin go to stdout",
         options.output);
  }
  if (options.input.empty() && options.decimal == "comma") {
    fail(ErrorKind::kUsage,
         "--decimal: got comma without --input, expected point: in rows of stdin commas part numbers");
  }
  if (options.input.empty() && !options.timespans.empty() && options.timespans != kLastColumn) {
    fail(ErrorKind::kUsage, "--timespans: got \"{}\" without --input, expected \"last\": the last number of each row",
         options.timespans);
  }
  if (!options.output.empty() && !is_npy(options.output) && !options.output.ends_with(".csv")) {
    fail(ErrorKind::kUsage, "--output: got \"{}\", expected a name that ends in .npy or .csv", options.output);
  }
  if (!options.save_state.empty()) check_save_path(options.save_state);
  if (!options.output.empty())
    check_output_path(options.output, {options.input, options.timespans, options.load_state});
  if (!options.output.empty() && !options.save_state.empty()) check_outputs_differ(options.output, options.save_state);
}

int run_predict(PredictOptions& options) {
  check_options(options);
  const Stream stream = options.machine.stream();
  const Numerics numerics = model::find_profile(options.profile);
  options.weights.check_parts(options.model);
  const model::Model model =
      model::load(options.model, stream, model::ModelKind::kRegressor, numerics, options.weights.types());
  for (const std::string& warning : model.warnings) note(fmt::format("warning: {}", warning));
  Prediction prediction(options, model, stream);
  const LastWillScope scope;
  catch_interrupts();
  return prediction.run();
}

}  // namespace

std::function<int()> setup_predict(CLI::App& app) {
  const auto options = std::make_shared<PredictOptions>();
  app.add_option("model", options->model, "Model folder, a .gguf, or a .safetensors with its config.json beside it")
      ->required();
  app.add_option("--input", options->input,
                 "Features: .npy [T, I] or [B, T, I], or .csv with a row per step (default: rows from stdin, answered "
                 "one by one)");
  app.add_option("--timespans", options->timespans,
                 "Time before each row: .npy or .csv with one number per row, or \"last\" for the last column of the "
                 "input (default: 1)");
  app.add_option("--output", options->output, "File for the result, .npy or .csv (default: stdout, as CSV)");
  app.add_option("--save-state", options->save_state, "File for the state after the last row");
  app.add_option("--load-state", options->load_state, "State to go on from");
  add_choice(app, "--decimal", options->decimal, {"point", "comma"},
             "What numbers of a .csv have before their fraction");
  add_profile(app, "--profile", options->profile, "How numbers are handled");
  options->weights.add_options(app);
  options->weights.add_mmap(app);
  options->machine.add_compute(app);
  options->machine.add_options(app);
  return [options] { return run_predict(*options); };
}

}  // namespace carousel::cli
