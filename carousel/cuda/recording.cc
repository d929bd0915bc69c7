// SPDX-License-Identifier: Apache-2.0
// Work recorded as a CUDA graph: one launch in place of hundreds.
//
// 1. While a thread records, its kernels go to a queue of its own that never runs. Other threads keep the GPU's queue.
// 2. A graph runs in the GPU's queue, after all that was asked for before.
// 3. A kernel that is held back is launched before the next one of its thread goes to the queue, unless that one took
//    it, and before the recording ends.
// 4. What the last kernel wrote is known from the call that says so until the queue is asked for again.
#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "carousel/core/error.h"
#include "carousel/cuda/launch.cuh"

namespace carousel::cuda {
namespace {

/// What this thread records from.
struct Recorder {
  const Gpu::Impl* gpu = nullptr;  // null: it does not record
  cudaStream_t queue = nullptr;
  std::unique_ptr<const HeldBack> held;
  std::optional<std::vector<Span>> writes;  // of the last kernel, where they are known
};
thread_local Recorder recorder;

void launch_held() {
  if (const auto held = std::move(recorder.held)) held->launch();
}

class Graph final : public Recording {
 public:
  Graph(Gpu::Impl& gpu, cudaGraph_t graph) : gpu_(gpu) {
    const cudaError_t status = cudaGraphInstantiate(&runnable_, graph, 0);
    cudaGraphDestroy(graph);
    check(status, "a graph");
  }
  ~Graph() override { cudaGraphExecDestroy(runnable_); }
  void run() override {
    check(cudaSetDevice(gpu_.index), "choosing the GPU");
    const std::lock_guard lock(gpu_.launching);
    check(cudaGraphLaunch(runnable_, gpu_.stream), "running a graph");
  }

 private:
  Gpu::Impl& gpu_;
  cudaGraphExec_t runnable_ = nullptr;
};

/// Records between its construction and end(), or its destruction where what was recorded threw.
class Capture {
 public:
  explicit Capture(const Gpu::Impl& gpu) {
    CAROUSEL_ASSERT(recorder.gpu == nullptr);
    check(cudaStreamCreateWithFlags(&queue_, cudaStreamNonBlocking), "a queue to record from");
    const cudaError_t status = cudaStreamBeginCapture(queue_, cudaStreamCaptureModeRelaxed);
    if (status != cudaSuccess) cudaStreamDestroy(queue_);
    check(status, "recording");
    recorder = {&gpu, queue_, nullptr, std::nullopt};
  }
  ~Capture() {
    if (cudaGraph_t const graph = ended()) cudaGraphDestroy(graph);
    cudaGetLastError();
    cudaStreamDestroy(queue_);
  }
  cudaGraph_t end() {
    recorder.gpu->queue();  // launches what is held back
    cudaGraph_t const graph = ended();
    check(status_, "recording");
    return graph;
  }

 private:
  cudaGraph_t ended() {
    cudaGraph_t graph = nullptr;
    if (!std::exchange(ended_, true)) status_ = cudaStreamEndCapture(queue_, &graph);
    recorder = {};
    return graph;
  }

  cudaStream_t queue_ = nullptr;
  cudaError_t status_ = cudaSuccess;
  bool ended_ = false;
};

}  // namespace

bool Gpu::Impl::is_recording() const { return recorder.gpu == this; }

cudaStream_t Gpu::Impl::queue() const {
  if (!is_recording()) return stream;
  launch_held();
  recorder.writes.reset();
  return recorder.queue;
}

void Gpu::Impl::hold_back(std::unique_ptr<const HeldBack> kernel) const {
  if (!is_recording()) return kernel->launch();
  launch_held();
  recorder.held = std::move(kernel);
}

void Gpu::Impl::wrote(std::initializer_list<Span> spans) const {
  if (is_recording()) recorder.writes = spans;
}

bool Gpu::Impl::has_left(const void* at, size_t size_bytes) const {
  if (!is_recording() || !recorder.writes) return false;
  const auto* const first = static_cast<const char*>(at);
  return std::none_of(recorder.writes->begin(), recorder.writes->end(), [&](const Span& span) {
    const auto* const written = static_cast<const char*>(span.at);
    return first < written + span.size_bytes && written < first + size_bytes;
  });
}

std::unique_ptr<const HeldBack> Gpu::Impl::take_held(const void* result) const {
  if (!is_recording() || recorder.held == nullptr || recorder.held->result != result) return nullptr;
  return std::move(recorder.held);
}

std::unique_ptr<Recording> Gpu::record(const std::function<void()>& work) {
  check(cudaSetDevice(impl_->index), "choosing the GPU");
  Capture capture(*impl_);
  work();
  return std::make_unique<Graph>(*impl_, capture.end());
}

}  // namespace carousel::cuda
