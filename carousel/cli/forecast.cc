// SPDX-License-Identifier: Apache-2.0
// carousel forecast: the quantiles of the next values of the series in a CSV file, as a table and as a picture.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "carousel/cli/command.h"
#include "carousel/cli/compute_options.h"
#include "carousel/cli/options.h"
#include "carousel/cli/output_path.h"
#include "carousel/cli/progress.h"
#include "carousel/cli/signals.h"
#include "carousel/cli/weight_options.h"
#include "carousel/core/error.h"
#include "carousel/core/json.h"
#include "carousel/forecast/plot.h"
#include "carousel/forecast/series.h"
#include "carousel/forecast/tirex.h"
#include "carousel/model/cost.h"
#include "carousel/model/load.h"

namespace carousel::cli {
namespace {

constexpr int64_t kMaxHorizon = 1 << 20;
constexpr size_t kBatch = 64;  // series in one pass
constexpr size_t kMaxQuantiles = 999;

struct ForecastCommand {
  std::string model, csv, out = "-", plot;
  std::string style = "auto", header = "auto", decimal = "point";
  forecast::TableOptions table;
  forecast::ForecastOptions options;
  std::vector<double> quantiles{0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9};
  WeightOptions weights;
  Machine machine;
};

std::vector<double> parse_quantiles(const std::string& text) {
  std::vector<double> levels;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    levels.push_back(parse_number("--quantiles", text.substr(begin, end - begin), 0, 1));
    begin = end + 1;
  }
  if (levels.size() > kMaxQuantiles) fail(ErrorKind::kUsage, "--quantiles: got {} levels", levels.size());
  for (size_t i = 1; i < levels.size(); ++i) {
    if (levels[i] > levels[i - 1]) continue;
    fail(ErrorKind::kUsage, "--quantiles: got {} after {}, expected increasing levels", levels[i], levels[i - 1]);
  }
  return levels;
}

formats::CsvTable read_table(const ForecastCommand& command) {
  formats::CsvOptions options;
  using Header = formats::CsvOptions::Header;
  options.header = command.header == "yes" ? Header::kYes : command.header == "no" ? Header::kNo : Header::kAuto;
  options.decimal = command.decimal == "comma" ? ',' : '.';
  return formats::CsvTable::open(command.csv, options);
}

forecast::TableStyle choose_style(const ForecastCommand& command, const forecast::SeriesTable& table) {
  const bool nixtla = table.id_column == "unique_id" || table.time_column == "ds";
  if (command.style == "auto") return nixtla ? forecast::TableStyle::kNixtla : forecast::TableStyle::kChronos;
  return command.style == "nixtla" ? forecast::TableStyle::kNixtla : forecast::TableStyle::kChronos;
}

void warn(const ForecastCommand& command, const forecast::SeriesTable& table, const forecast::Tirex& model) {
  for (const std::string& text : table.notes) note("warning: " + text);
  if (command.options.horizon > model.context()) {
    fmt::print(
        stderr,
        "warning: --horizon {} is longer than the model's context of {}: the end of the forecast sees no value\n",
        command.options.horizon, model.context());
  }
  for (const forecast::Series& series : table.series) {
    if (std::all_of(series.values.begin(), series.values.end(), [](double value) { return std::isnan(value); }))
      note(fmt::format("warning: \"{}\" holds no value; its forecast says nothing", series.id));
  }
}

// Values near the end of float32's range overflow where they are scaled; NaN is no forecast.
void check_finite(const ForecastCommand& command, const forecast::Series& series,
                  const forecast::SeriesForecast& forecast) {
  const auto finite = [](double value) { return std::isfinite(value); };
  if (std::all_of(forecast.median.begin(), forecast.median.end(), finite) &&
      std::all_of(forecast.quantiles.begin(), forecast.quantiles.end(), finite)) {
    return;
  }
  double largest = 0;
  for (const double value : series.values) largest = std::max(largest, std::abs(value));
  fail(ErrorKind::kInput,
       "{}: the forecast of \"{}\" is no finite number, expected values whose spread is within the range of float32 "
       "(the "
       "largest is {:g})",
       command.csv, series.id, largest);
}

std::vector<forecast::SeriesForecast> forecast_all(const ForecastCommand& command, const forecast::SeriesTable& table,
                                                   forecast::Tirex& model) {
  // Levels that the model cannot give are refused before anything is computed.
  const std::vector<float> none(model.levels().size());
  forecast::select_quantiles(none, model.levels(), command.quantiles);
  std::vector<forecast::SeriesForecast> out;
  for (size_t begin = 0; begin < table.series.size(); begin += kBatch) {
    if (interrupted()) fail(ErrorKind::kCancelled, "forecast: interrupted");
    std::vector<std::vector<float>> batch;
    for (size_t s = begin; s < std::min(begin + kBatch, table.series.size()); ++s) {
      const std::vector<double>& values = table.series[s].values;
      batch.emplace_back(values.begin(), values.end());
    }
    for (const forecast::Forecast& one : model.forecast(batch, command.options)) {
      out.push_back({forecast::select_quantiles(one.values, model.levels(), {0.5}),
                     forecast::select_quantiles(one.values, model.levels(), command.quantiles)});
      check_finite(command, table.series[out.size() - 1], out.back());
    }
  }
  return out;
}

int run_forecast(ForecastCommand& command) {
  const std::vector<std::string> inputs = {command.csv, command.model};
  if (command.out != "-") check_output_path(command.out, inputs);
  if (!command.plot.empty()) check_output_path(command.plot, inputs);
  if (command.out != "-" && !command.plot.empty()) check_outputs_differ(command.plot, command.out);
  const Stream stream = command.machine.stream();
  const forecast::SeriesTable table = forecast::read_series(read_table(command), command.table);
  command.weights.check_parts(command.model);
  const model::Model loaded =
      model::load(command.model, stream, model::ModelKind::kForecaster, Numerics::native(), command.weights.types());
  for (const std::string& warning : loaded.warnings) note("warning: " + warning);
  const auto together = static_cast<int64_t>(std::min(kBatch, table.series.size()));
  const int64_t patch = loaded.forecaster->patches().patch, patches = (command.options.horizon + patch - 1) / patch;
  model::check_contexts(*loaded.forecaster, stream, command.csv, together,
                        std::min(command.options.accelerate, patches) - 1);
  forecast::Tirex model(*loaded.forecaster, stream);
  warn(command, table, model);
  catch_interrupts();
  const std::vector<forecast::SeriesForecast> forecasts = forecast_all(command, table, model);
  const std::string text = forecast::write_forecasts(table, forecasts, command.quantiles, choose_style(command, table));
  if (interrupted()) fail(ErrorKind::kCancelled, "forecast: interrupted");
  if (command.out == "-") {
    std::fwrite(text.data(), 1, text.size(), stdout);
  } else {
    write_text_file(command.out, text);
  }
  if (command.plot.empty()) return 0;
  write_text_file(command.plot, forecast::plot_forecasts(table, forecasts, command.quantiles));
  if (forecasts.size() > forecast::kPanels) {
    note(fmt::format("{}: the first {} of {} series", command.plot, forecast::kPanels, forecasts.size()));
  }
  return 0;
}

}  // namespace

std::function<int()> setup_forecast(CLI::App& app) {
  const auto command = std::make_shared<ForecastCommand>();
  app.add_option("model", command->model, "TiRex: its .ckpt, or a folder with config.json and weights")->required();
  app.add_option("--csv", command->csv,
                 "Series: long (unique_id/item_id, ds/timestamp, y/target), wide (a column each), or one column")
      ->required();
  add_integer(app, "--horizon", command->options.horizon, 1, kMaxHorizon, "Steps to forecast")
      ->required()
      ->default_str("");
  app.add_option("--column", command->table.columns, "Column of values, by its header; may be repeated")
      ->allow_extra_args(false);
  app.add_option("--id-column", command->table.id_column, "Column that tells series apart");
  app.add_option("--time-column", command->table.time_column, "Column of times");
  app.add_option("--freq", command->table.frequency,
                 "Step, as pandas names it (15min, h, D, B, W-SUN, MS, QE-DEC, ...), or an integer where "
                 "the times are counts; else inferred");
  add_choice(app, "--header", command->header, {"auto", "yes", "no"}, "Whether the first line names the columns");
  add_choice(app, "--decimal", command->decimal, {"point", "comma"}, "What numbers have before their fraction");
  CLI::Option* quantiles = app.add_option("--quantiles", [command](const CLI::results_t& results) {
    command->quantiles = parse_quantiles(results.back());
    return true;
  });
  quantiles->description("Levels, increasing; between the model's by linear interpolation")
      ->type_name("FLOAT,...")
      ->default_str("0.1,0.2,...,0.9");
  add_integer(app, "--accelerate", command->options.accelerate, 1, 1024,
              "Patches per pass: above 1 long horizons are faster and a little different");
  add_choice(app, "--style", command->style, {"auto", "chronos", "nixtla"}, "Columns of the output");
  app.add_option("--out", command->out, "Where the forecast goes, as CSV; - for standard output")->default_str("-");
  app.add_option("--plot", command->plot, "A picture of history, median and bands, as SVG");
  command->weights.add_options(app);
  command->weights.add_mmap(app);
  command->machine.add_compute(app);
  command->machine.add_options(app);
  return [command] { return run_forecast(*command); };
}

}  // namespace carousel::cli
