// SPDX-License-Identifier: Apache-2.0
// Config -> a freshly initialised model on disk.
#include "carousel/core/error.h"
#include "carousel/model/load.h"
#include "carousel/model/model_writer.h"
#include "carousel/model/params.h"
#include "carousel/model/profile.h"

namespace carousel::model {

void write_initialised(const std::string& config_path, uint64_t seed, DType dtype, const std::string& out,
                       const std::function<bool(double)>& progress, const Numerics& numerics) {
  const ModelPath place = resolve(config_path);
  if (place.config.ends_with(".gguf")) fail(ErrorKind::kInput, "{}: a GGUF file, expected a config.json", place.config);
  const ModelConfig config = read_model_config(place, nullptr);
  ParamList list;
  declare_params(config, list, place.config);
  std::vector<ParamRecord> records = list.records();
  for (ParamRecord& record : records) record.init = drawn_by(numerics, record.name, record.init);
  const auto draw = [seed](const ParamRecord& record, float* values) { draw_param(record, seed, values); };
  write_model({config, place.config, std::move(records), dtype, draw}, out, read_beside(place.folder), progress);
}

}  // namespace carousel::model
