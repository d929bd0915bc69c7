// SPDX-License-Identifier: Apache-2.0
// How an op reaches its kernels. Each macro stands at global scope in an op's header and declares
// `kernels::name(stream, args)`, an ordinary call that switches on the stream's device. On meta it does nothing.
//   KERNEL(name, Args)       compiled per instruction set in x_cpu.cc; on CUDA carousel::cuda::name, in x_cuda.cu
//   COMPOSITE(name, Args)    carousel::cpu::name, plain code over other kernels, compiled once, in x_composite.cc; on
//                            CUDA carousel::cuda::name
//   PLAIN_KERNEL(name, Args) carousel::cpu::plain::name, written to be compared with a reference and not to be fast,
//                            compiled once, in x_cast.cc; on CUDA it throws
//   CPU_KERNEL, CPU_COMPOSITE  the first two without a body on CUDA, where they throw Error(kDevice) "name: not on this
//                            device". These lines are the list of what CUDA lacks.
// With the ending _WITH_WORKSPACE a macro also declares `kernels::name_workspace(stream, args)`: the bytes of scratch
// memory that the kernel asks the op for and lays out itself (cpu/workspace.h). Meta answers as what it stands for.
#pragma once

#include "carousel/cpu/kernel.h"

namespace carousel {

/// Throws Error(kDevice) "name: not on this device".
[[noreturn]] void not_on_device(const char* kernel);

/// What the kernels of a device have, where not all have the same. Code outside of the kernels asks here, and not which
/// device it is.
struct KernelTraits {
  bool trains = true;               // gradients
  bool masks = true;                // matrices with a mask
  bool profiles = true;             // profiles that round, or compute in another order
  bool maps = true;                 // weights used in the mapped file
  bool all_blocks = true;           // products with every block type in its own bits; else with Q8 and Q4 alone
  bool widens_blocks = false;       // to bf16 before many rows
  bool narrow_cells = false;        // cells that take bf16 where products do
  bool rows_keep_bits = true;       // a row's results do not depend on how many rows are beside it
  int64_t slab_rows = 512;          // rows of a prompt that a forward takes at most
  Compute compute = Compute::kF32;  // of products with bf16 weights, where nobody chose
};
/// The traits of the kernels that work on `memory`; of a meta, those that it stands for.
inline KernelTraits kernel_traits(const Memory& memory) {
  if (memory.kernels() == Device::kCpu) return {};
  return {.trains = false,
          .masks = false,
          .profiles = false,
          .maps = false,
          .all_blocks = false,
          .widens_blocks = true,
          .narrow_cells = true,
          .rows_keep_bits = false,
          .slab_rows = 4096,
          .compute = Compute::kBF16};
}

/// Tells the stream's watch of an op, until the end of its scope.
class WatchedOp {
 public:
  WatchedOp(const Stream& stream, const char* op, const void* args) : watch_(stream.watch) {
    if (watch_ != nullptr) watch_->begin(op, args);
  }
  ~WatchedOp() {
    if (watch_ != nullptr) watch_->end();
  }
  WatchedOp(const WatchedOp&) = delete;
  WatchedOp& operator=(const WatchedOp&) = delete;

 private:
  OpWatch* watch_;
};

}  // namespace carousel

#if defined(CAROUSEL_CUDA)
#define CAROUSEL_DECLARE_CUDA(result, name, ...)              \
  namespace carousel::cuda {                                  \
  result name(const Stream& stream, const __VA_ARGS__& args); \
  }
#define CAROUSEL_CALL_CUDA(name) return cuda::name(stream, args)
#else
#define CAROUSEL_DECLARE_CUDA(result, name, ...)
#define CAROUSEL_CALL_CUDA(name) not_on_device(#name)
#endif

// `run_cpu` and `run_cuda` are the statements that run the kernel there.
#define CAROUSEL_DISPATCH(name, run_cpu, run_cuda, ...)             \
  namespace carousel::kernels {                                     \
  inline void name(const Stream& stream, const __VA_ARGS__& args) { \
    const WatchedOp watched(stream, #name, &args);                  \
    switch (stream.device()) {                                      \
      case Device::kMeta:                                           \
        return;                                                     \
      case Device::kCuda:                                           \
        run_cuda;                                                   \
        return;                                                     \
      case Device::kCpu:                                            \
        break;                                                      \
    }                                                               \
    run_cpu;                                                        \
  }                                                                 \
  }                                                                 \
  static_assert(true)
#define CAROUSEL_DISPATCH_WORKSPACE(name, run_cpu, run_cuda, ...)                  \
  namespace carousel::kernels {                                                    \
  inline int64_t name##_workspace(const Stream& stream, const __VA_ARGS__& args) { \
    if (stream.memory->kernels() == Device::kCuda) {                               \
      run_cuda;                                                                    \
    }                                                                              \
    run_cpu;                                                                       \
  }                                                                                \
  }                                                                                \
  static_assert(true)

#define CAROUSEL_KERNEL(name, run_cuda, ...)                        \
  CAROUSEL_FOR_EACH_ISA(CAROUSEL_DECLARE_KERNEL, name, __VA_ARGS__) \
  CAROUSEL_DISPATCH(name, CAROUSEL_CALL_SETS(name, __VA_ARGS__), run_cuda, __VA_ARGS__)
#define CAROUSEL_KERNEL_WORKSPACE(name, run_cuda, ...)                 \
  CAROUSEL_FOR_EACH_ISA(CAROUSEL_DECLARE_WORKSPACE, name, __VA_ARGS__) \
  CAROUSEL_DISPATCH_WORKSPACE(name, CAROUSEL_CALL_SETS(name##_workspace, __VA_ARGS__), run_cuda, __VA_ARGS__)

#define KERNEL(name, ...)                        \
  CAROUSEL_DECLARE_CUDA(void, name, __VA_ARGS__) \
  CAROUSEL_KERNEL(name, CAROUSEL_CALL_CUDA(name), __VA_ARGS__)
#define KERNEL_WITH_WORKSPACE(name, ...)                        \
  KERNEL(name, __VA_ARGS__);                                    \
  CAROUSEL_DECLARE_CUDA(int64_t, name##_workspace, __VA_ARGS__) \
  CAROUSEL_KERNEL_WORKSPACE(name, CAROUSEL_CALL_CUDA(name##_workspace), __VA_ARGS__)

#define CPU_KERNEL(name, ...) CAROUSEL_KERNEL(name, not_on_device(#name), __VA_ARGS__)
#define CPU_KERNEL_WITH_WORKSPACE(name, ...) \
  CPU_KERNEL(name, __VA_ARGS__);             \
  CAROUSEL_KERNEL_WORKSPACE(name, not_on_device(#name), __VA_ARGS__)

#define CAROUSEL_DECLARE_COMPOSITE(result, name, ...)         \
  namespace carousel::cpu {                                   \
  result name(const Stream& stream, const __VA_ARGS__& args); \
  }

#define CPU_COMPOSITE(name, ...)                      \
  CAROUSEL_DECLARE_COMPOSITE(void, name, __VA_ARGS__) \
  CAROUSEL_DISPATCH(name, cpu::name(stream, args), not_on_device(#name), __VA_ARGS__)
#define CPU_COMPOSITE_WITH_WORKSPACE(name, ...)                      \
  CPU_COMPOSITE(name, __VA_ARGS__);                                  \
  CAROUSEL_DECLARE_COMPOSITE(int64_t, name##_workspace, __VA_ARGS__) \
  CAROUSEL_DISPATCH_WORKSPACE(name, return cpu::name##_workspace(stream, args), not_on_device(#name), __VA_ARGS__)

#define COMPOSITE(name, ...)                          \
  CAROUSEL_DECLARE_COMPOSITE(void, name, __VA_ARGS__) \
  CAROUSEL_DECLARE_CUDA(void, name, __VA_ARGS__)      \
  CAROUSEL_DISPATCH(name, cpu::name(stream, args), CAROUSEL_CALL_CUDA(name), __VA_ARGS__)
#define COMPOSITE_WITH_WORKSPACE(name, ...)                                                                           \
  COMPOSITE(name, __VA_ARGS__);                                                                                       \
  CAROUSEL_DECLARE_COMPOSITE(int64_t, name##_workspace, __VA_ARGS__)                                                  \
  CAROUSEL_DECLARE_CUDA(int64_t, name##_workspace, __VA_ARGS__)                                                       \
  CAROUSEL_DISPATCH_WORKSPACE(name, return cpu::name##_workspace(stream, args), CAROUSEL_CALL_CUDA(name##_workspace), \
                              __VA_ARGS__)

#define PLAIN_KERNEL(name, ...)                       \
  CAROUSEL_DECLARE_KERNEL(plain, , name, __VA_ARGS__) \
  CAROUSEL_DISPATCH(name, cpu::plain::name(stream, args), not_on_device(#name), __VA_ARGS__)
#define PLAIN_KERNEL_WITH_WORKSPACE(name, ...)                                                               \
  PLAIN_KERNEL(name, __VA_ARGS__);                                                                           \
  CAROUSEL_DECLARE_WORKSPACE(plain, , name, __VA_ARGS__)                                                     \
  CAROUSEL_DISPATCH_WORKSPACE(name, return cpu::plain::name##_workspace(stream, args), not_on_device(#name), \
                              __VA_ARGS__)
