// SPDX-License-Identifier: Apache-2.0
// Work recorded as a CUDA graph: one launch in place of hundreds.
//
// 1. While a thread records, its kernels go to a queue of its own that never runs. Other threads keep the GPU's queue.
// 2. A graph runs in the GPU's queue, after all that was asked for before.
#include <utility>

#include "carousel/core/error.h"
#include "carousel/cuda/launch.cuh"

namespace carousel::cuda {
namespace {

/// What this thread records from.
struct Recorder {
  const Gpu::Impl* gpu = nullptr;  // null: it does not record
  cudaStream_t queue = nullptr;
};
thread_local Recorder recorder;

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
    recorder = {&gpu, queue_};
  }
  ~Capture() {
    if (cudaGraph_t const graph = ended()) cudaGraphDestroy(graph);
    cudaGetLastError();
    cudaStreamDestroy(queue_);
  }
  cudaGraph_t end() {
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

cudaStream_t Gpu::Impl::queue() const { return recorder.gpu == this ? recorder.queue : stream; }

std::unique_ptr<Recording> Gpu::record(const std::function<void()>& work) {
  check(cudaSetDevice(impl_->index), "choosing the GPU");
  Capture capture(*impl_);
  work();
  return std::make_unique<Graph>(*impl_, capture.end());
}

}  // namespace carousel::cuda
