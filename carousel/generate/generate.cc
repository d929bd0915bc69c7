// SPDX-License-Identifier: Apache-2.0
// One request: a batcher of one.
#include "carousel/generate/batcher.h"

namespace carousel::generate {

void generate(const model::Model& model, const Stream& stream, Request request, const std::function<bool()>& stop) {
  Batcher batcher(model, stream);
  batcher.submit(std::move(request));
  batcher.stop_when(stop);
  bool cancelled = false;
  while (batcher.live() > 0) {
    if (!cancelled && stop && stop()) {
      cancelled = true;
      batcher.stop_when({});
      batcher.cancel();
    } else {
      batcher.tick();
    }
  }
}

}  // namespace carousel::generate
