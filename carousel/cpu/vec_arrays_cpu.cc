// SPDX-License-Identifier: Apache-2.0
// exp, tanh and sigmoid of arrays, with the same tail handling as the ops that use them.
#include "carousel/cpu/vec_arrays.h"

#include "carousel/cpu/divide.h"
#include "carousel/cpu/vec_math.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

constexpr int64_t kWorkPerElement = 32;

template <Vec (*kFunction)(Vec)>
void apply(const Stream& stream, const ArrayArgs& args) {
  parallel_ranges(stream, (args.count + kLanes - 1) / kLanes, kLanes * kWorkPerElement,
                  [&](int64_t begin, int64_t end) {
                    for (int64_t j = begin * kLanes; j < end * kLanes; j += kLanes) {
                      if (const int64_t rest = args.count - j; rest >= kLanes) {
                        store(args.out + j, kFunction(load(args.x + j)));
                      } else {
                        store_partial(args.out + j, kFunction(load_partial(args.x + j, rest)), rest);
                      }
                    }
                  });
}

}  // namespace

void exp_array(const Stream& stream, const ArrayArgs& args) { apply<exp>(stream, args); }
void tanh_array(const Stream& stream, const ArrayArgs& args) { apply<tanh>(stream, args); }
void sigmoid_array(const Stream& stream, const ArrayArgs& args) { apply<sigmoid>(stream, args); }

}  // namespace carousel::cpu::CAROUSEL_ISA
