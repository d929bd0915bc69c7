// SPDX-License-Identifier: Apache-2.0
// carousel convert: a model to GGUF, or from GGUF to a folder as Hugging Face lays it out.
#include <fmt/format.h>

#include <string>

#include "carousel/cli/command.h"
#include "carousel/cli/compute_options.h"
#include "carousel/cli/options.h"
#include "carousel/cli/progress.h"
#include "carousel/cli/signals.h"
#include "carousel/cli/weight_options.h"
#include "carousel/core/error.h"
#include "carousel/model/convert.h"

namespace carousel::cli {
namespace {

struct ConvertOptions {
  std::string model, out;
  std::string dtype = "f32";
  bool dtype_given = false;
  Machine machine;
};

void write_as_folder(const ConvertOptions& options, const Stream& stream, const model::WriteProgress& go_on) {
  if (const std::optional<DType> blocks_as = weight_type_of(options.dtype)) {
    return model::write_folder(options.model, options.out, stream, *blocks_as, go_on);
  }
  const auto keep = [](const model::ParamRecord&, const formats::TensorEntry&) -> const formats::GgmlType* {
    return nullptr;
  };
  model::write_folder(options.model, options.out, stream, keep, go_on);
}

int run_convert(ConvertOptions& options) {
  const bool gguf = is_gguf_name(options.out);
  if (gguf && options.dtype_given) {
    fail(ErrorKind::kUsage, "--dtype: got {} for {}, expected a folder; `quantize` writes other types to a .gguf",
         options.dtype, options.out);
  }
  const Stream stream = options.machine.stream();
  catch_interrupts();
  Progress bar("%", 100);
  const auto go_on = [&](double done) {
    bar.update(static_cast<int64_t>(100 * done));
    return may_go_on(done);
  };
  if (gguf) {
    model::write_gguf(options.model, options.out, stream, {}, go_on);
  } else {
    write_as_folder(options, stream, go_on);
  }
  note(fmt::format("{}: written from {}", options.out, options.model));
  return 0;
}

}  // namespace

std::function<int()> setup_convert(CLI::App& app) {
  const auto options = std::make_shared<ConvertOptions>();
  app.add_option("model", options->model, "Model folder, .safetensors or .gguf")->required();
  app.add_option("--out", options->out, "FILE.gguf, or a folder to write, which must be new or empty")->required();
  const CLI::Option* const dtype =
      add_choice(app, "--dtype", options->dtype, {"f32", "bf16", "f16", "auto"},
                 "In a folder, type of what the source has in blocks (Q8_0, Q4_K, ...); auto: they stay blocks, which "
                 "carousel alone reads there. All else keeps its type");
  options->machine.add_cpu_options(app);
  return [options, dtype] {
    options->dtype_given = dtype->count() > 0;
    return run_convert(*options);
  };
}

}  // namespace carousel::cli
