// SPDX-License-Identifier: Apache-2.0
// The meetings of processes as calls of MPI.
//
// 1. One thread calls MPI: the one that joined.
// 2. Sums are added here, one process after the other, and never by MPI, whose order may depend on sizes and timing.
// 3. What is sent at a time is bounded, since MPI counts in ints; arrays go in units of kCutElements.
// 4. Meetings are requests that are looked after (finish, wait): MPI's own waiting holds a core.
// 5. A process counts the meetings that it has come to. All count the same ones.
// 6. A process that fails tells all others its count, once, and meets nobody but those that fail too, on a communicator
//    of its own (fails_with_all). A process in a meeting beyond that count waits for one that will not come, and
//    answers so (answer_failed). So how long each takes to fail does not matter.
// 7. No answer comes from a process that computes, or that waits in the very meeting which the failing one had begun.
//    After kLongStep the failing one decides that it fails alone.
#define OMPI_SKIP_MPICXX 1
#define MPICH_SKIP_MPICXX 1
#include <mpi.h>
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "carousel/core/assert.h"
#include "carousel/core/error.h"
#include "carousel/mpi/job.h"

namespace carousel::mpi {
namespace {

using Clock = std::chrono::steady_clock;
using train::Cuts;
using train::kCutElements;

constexpr int64_t kBufferElements = int64_t{1} << 21;  // of all pieces that are received at a time
constexpr size_t kMessageBytes = size_t{1} << 30;
constexpr int kPieceTag = 1, kBytesTag = 2;
constexpr int64_t kAnswered = INT64_MAX;
constexpr int kFailedTag = 1, kWaitingTag = 2;  // on the communicator of processes that fail
constexpr std::chrono::seconds kLongStep{30};   // a process that fails waits so long for one that comes to no meeting

bool is_done(MPI_Request& request) {
  int done = 0;
  MPI_Test(&request, &done, MPI_STATUS_IGNORE);
  return done != 0;
}

class Job : public train::Processes {
 public:
  Job() {
    MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
    MPI_Comm_size(MPI_COMM_WORLD, &size_);
    MPI_Comm_dup(MPI_COMM_WORLD, &failed_);
    MPI_Type_contiguous(static_cast<int>(kCutElements), MPI_FLOAT, &unit_);
    MPI_Type_commit(&unit_);
    count_sharing();
  }
  ~Job() override {
    if (!failing_) wait();  // one that fails now is answered
    MPI_Finalize();
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  int sharing_cores() const override { return sharing_; }
  void sum_shards(const Tensor& values, const Cuts& cuts) override;
  void spread_shards(const Tensor& values, const Cuts& cuts) override;
  Tensor collect_shards(const Tensor& shard, const Cuts& cuts) override;
  void sum(std::span<double> values) override;
  std::vector<std::string> collect(const std::string& bytes) override;
  std::string from_first(const std::string& bytes) override;
  void wait() override;
  bool fails_with_all() override;
  void end_all(int status) override { MPI_Abort(MPI_COMM_WORLD, status); }

 private:
  void count_sharing();
  /// Waits for requests as threads of carousel wait for each other: it looks for 50 us, then gives way between looks.
  void finish(std::span<MPI_Request> requests);
  void finish(MPI_Request request) { finish({&request, 1}); }
  /// Takes the count that a process that fails has told; false: none has since the last call.
  bool hear_failed();
  /// Within a meeting: tells processes that failed before it that this one waits for them.
  void answer_failed();
  /// For a process that has failed: whether another one waits for it.
  bool is_answered();
  float* slot(int rank, int64_t piece) { return pieces_.data() + rank * piece; }
  /// Lengths and places of the shards in units.
  void units_of(const Cuts& cuts);

  int rank_ = 0, size_ = 1, sharing_ = 1;
  MPI_Comm failed_ = MPI_COMM_NULL;  // for processes that fail
  int64_t meetings_ = 0;             // that this process has come to
  bool failing_ = false;
  std::vector<std::pair<int, int64_t>> heard_;  // ranks that have failed, and their counts or kAnswered
  MPI_Datatype unit_ = MPI_DATATYPE_NULL;       // kCutElements floats
  std::vector<float> pieces_;                   // a piece of this process's shard from each process
  std::vector<MPI_Request> requests_;
  std::vector<int> counts_, places_;  // units_of
};

/// Compares the sets of processors that the processes of this machine may run on.
void Job::count_sharing() {
  MPI_Comm here = MPI_COMM_NULL;
  MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &here);
  int count = 1;
  MPI_Comm_size(here, &count);
  cpu_set_t mine;
  CPU_ZERO(&mine);
  sched_getaffinity(0, sizeof mine, &mine);
  std::vector<cpu_set_t> all(static_cast<size_t>(count));
  MPI_Allgather(&mine, sizeof mine, MPI_BYTE, all.data(), sizeof mine, MPI_BYTE, here);
  MPI_Comm_free(&here);
  sharing_ = static_cast<int>(std::count_if(all.begin(), all.end(), [&](const cpu_set_t& other) {
    cpu_set_t both;
    CPU_AND(&both, &mine, &other);
    return CPU_COUNT(&both) > 0;
  }));
  sharing_ = std::max(sharing_, 1);
}

void Job::finish(std::span<MPI_Request> requests) {
  const Clock::time_point patient = Clock::now() + std::chrono::microseconds(50);
  for (int done = 0;;) {
    MPI_Testall(static_cast<int>(requests.size()), requests.data(), &done, MPI_STATUSES_IGNORE);
    if (done != 0) return;
    if (Clock::now() <= patient) continue;
    answer_failed();
    sched_yield();
  }
}

float* on_host(const Tensor& values, const Cuts& cuts) {
  CAROUSEL_ASSERT(values.count() >= cuts.back());
  return values.f32();
}

/// to = the sum of the parts, in their order. `count` is a multiple of kCutElements; `to` may be one of the parts.
void add_in_order(float* to, const std::vector<const float*>& parts, int64_t count) {
  for (int64_t i = 0; i < count; i += kCutElements) {
    float total[kCutElements];
    std::copy_n(parts[0] + i, kCutElements, total);
    for (size_t r = 1; r < parts.size(); ++r) {
      const float* const part = parts[r] + i;
      for (int64_t j = 0; j < kCutElements; ++j) total[j] += part[j];
    }
    std::copy_n(total, kCutElements, to + i);
  }
}

void Job::sum_shards(const Tensor& values, const Cuts& cuts) {
  ++meetings_;
  float* const all = on_host(values, cuts);
  const int64_t piece = std::max(kCutElements, kBufferElements / size_ / kCutElements * kCutElements);
  pieces_.resize(static_cast<size_t>(piece * size_));
  std::vector<const float*> parts(static_cast<size_t>(size_));
  int64_t longest = 0;
  const auto begin = [&](int rank) { return cuts[static_cast<size_t>(rank)]; };
  for (int r = 0; r < size_; ++r) longest = std::max(longest, begin(r + 1) - begin(r));
  for (int64_t at = 0; at < longest; at += piece) {
    const auto length = [&](int r) { return std::clamp(begin(r + 1) - begin(r) - at, int64_t{0}, piece); };
    float* const mine = all + begin(rank_) + at;
    requests_.clear();
    for (int r = 0; r < size_; ++r) {
      parts[static_cast<size_t>(r)] = r == rank_ ? mine : slot(r, piece);
      if (r == rank_) continue;
      if (length(rank_) > 0) {
        requests_.emplace_back();
        MPI_Irecv(slot(r, piece), static_cast<int>(length(rank_)), MPI_FLOAT, r, kPieceTag, MPI_COMM_WORLD,
                  &requests_.back());
      }
      if (length(r) > 0) {
        requests_.emplace_back();
        MPI_Isend(all + begin(r) + at, static_cast<int>(length(r)), MPI_FLOAT, r, kPieceTag, MPI_COMM_WORLD,
                  &requests_.back());
      }
    }
    finish(requests_);
    add_in_order(mine, parts, length(rank_));
  }
}

void Job::units_of(const Cuts& cuts) {
  counts_.clear();
  places_.clear();
  for (size_t r = 0; r + 1 < cuts.size(); ++r) {
    counts_.push_back(static_cast<int>((cuts[r + 1] - cuts[r]) / kCutElements));
    places_.push_back(static_cast<int>(cuts[r] / kCutElements));
  }
}

void Job::spread_shards(const Tensor& values, const Cuts& cuts) {
  ++meetings_;
  units_of(cuts);
  MPI_Request request = MPI_REQUEST_NULL;
  MPI_Iallgatherv(MPI_IN_PLACE, 0, unit_, on_host(values, cuts), counts_.data(), places_.data(), unit_, MPI_COMM_WORLD,
                  &request);
  finish(request);
}

Tensor Job::collect_shards(const Tensor& shard, const Cuts& cuts) {
  ++meetings_;
  units_of(cuts);
  Tensor all;
  if (rank_ == 0) all = Tensor({cuts.back()}, DType::kF32);
  MPI_Request request = MPI_REQUEST_NULL;
  MPI_Igatherv(shard.f32(), counts_[static_cast<size_t>(rank_)], unit_, rank_ == 0 ? all.f32() : nullptr,
               counts_.data(), places_.data(), unit_, 0, MPI_COMM_WORLD, &request);
  finish(request);
  return all;
}

void Job::sum(std::span<double> values) {
  ++meetings_;
  const size_t count = values.size();
  std::vector<double> all(count * static_cast<size_t>(size_));
  MPI_Request request = MPI_REQUEST_NULL;
  MPI_Iallgather(values.data(), static_cast<int>(count), MPI_DOUBLE, all.data(), static_cast<int>(count), MPI_DOUBLE,
                 MPI_COMM_WORLD, &request);
  finish(request);
  for (size_t i = 0; i < count; ++i) {
    values[i] = all[i];
    for (size_t r = 1; r < static_cast<size_t>(size_); ++r) values[i] += all[r * count + i];
  }
}

std::vector<std::string> Job::collect(const std::string& bytes) {
  ++meetings_;
  const auto mine = static_cast<int64_t>(bytes.size());
  std::vector<int64_t> sizes(static_cast<size_t>(size_));
  MPI_Request request = MPI_REQUEST_NULL;
  MPI_Iallgather(&mine, 1, MPI_INT64_T, sizes.data(), 1, MPI_INT64_T, MPI_COMM_WORLD, &request);
  finish(request);
  const auto length = [](const std::string& text, size_t at) {
    return static_cast<int>(std::min(kMessageBytes, text.size() - at));
  };
  if (rank_ != 0) {
    for (size_t at = 0; at < bytes.size(); at += kMessageBytes) {
      MPI_Isend(bytes.data() + at, length(bytes, at), MPI_BYTE, 0, kBytesTag, MPI_COMM_WORLD, &request);
      finish(request);
    }
    return {};
  }
  std::vector<std::string> all{bytes};
  for (int r = 1; r < size_; ++r) {
    std::string& other = all.emplace_back(static_cast<size_t>(sizes[static_cast<size_t>(r)]), '\0');
    for (size_t at = 0; at < other.size(); at += kMessageBytes) {
      MPI_Irecv(other.data() + at, length(other, at), MPI_BYTE, r, kBytesTag, MPI_COMM_WORLD, &request);
      finish(request);
    }
  }
  return all;
}

std::string Job::from_first(const std::string& bytes) {
  ++meetings_;
  auto size = static_cast<int64_t>(bytes.size());
  MPI_Request request = MPI_REQUEST_NULL;
  MPI_Ibcast(&size, 1, MPI_INT64_T, 0, MPI_COMM_WORLD, &request);
  finish(request);
  std::string all = rank_ == 0 ? bytes : std::string(static_cast<size_t>(size), '\0');
  for (size_t at = 0; at < all.size(); at += kMessageBytes) {
    const auto length = static_cast<int>(std::min(kMessageBytes, all.size() - at));
    MPI_Ibcast(all.data() + at, length, MPI_BYTE, 0, MPI_COMM_WORLD, &request);
    finish(request);
  }
  return all;
}

void Job::wait() {
  ++meetings_;
  MPI_Request all = MPI_REQUEST_NULL;
  MPI_Ibarrier(MPI_COMM_WORLD, &all);
  for (int looks = 0; !is_done(all); ++looks) {
    answer_failed();
    if (looks > 100) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

bool Job::hear_failed() {
  int any = 0;
  MPI_Status status;
  MPI_Iprobe(MPI_ANY_SOURCE, kFailedTag, failed_, &any, &status);
  if (any == 0) return false;
  auto& [rank, meetings] = heard_.emplace_back(status.MPI_SOURCE, 0);
  MPI_Recv(&meetings, 1, MPI_INT64_T, rank, kFailedTag, failed_, MPI_STATUS_IGNORE);
  return true;
}

void Job::answer_failed() {
  if (!hear_failed() && heard_.empty()) return;
  for (auto& [rank, meetings] : heard_) {
    if (meetings >= meetings_) continue;
    MPI_Send(nullptr, 0, MPI_BYTE, rank, kWaitingTag, failed_);
    meetings = kAnswered;
  }
}

bool Job::is_answered() {
  int any = 0;
  MPI_Iprobe(MPI_ANY_SOURCE, kWaitingTag, failed_, &any, MPI_STATUS_IGNORE);
  return any != 0;
}

bool Job::fails_with_all() {
  const auto others = static_cast<size_t>(size_ - 1);
  if (failing_) return heard_.size() == others;  // the first answer stands
  failing_ = true;
  requests_.clear();
  for (int r = 0; r < size_; ++r) {
    if (r == rank_) continue;
    requests_.emplace_back();
    MPI_Isend(&meetings_, 1, MPI_INT64_T, r, kFailedTag, failed_, &requests_.back());
  }
  // Where several fail, but not all do, the lowest rank speaks: it ends the others before their time is over.
  const auto turn = std::chrono::milliseconds(250 * std::min(rank_, 8));
  Clock::time_point deadline = Clock::now() + kLongStep + turn;
  while (heard_.size() < others) {
    const bool lower = std::any_of(heard_.begin(), heard_.end(), [&](const auto& one) { return one.first < rank_; });
    if (is_answered()) deadline = std::min(deadline, Clock::now() + turn);
    if (!lower && Clock::now() >= deadline) return false;
    if (!hear_failed()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  for (MPI_Request& request : requests_) {  // all receive what they are sent; nobody is answered any more
    while (!is_done(request)) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

}  // namespace

std::string library() {
#ifdef OMPI_MAJOR_VERSION
  return "Open MPI";
#else
  return "MPI";
#endif
}

std::unique_ptr<train::Processes> join(int started) {
  int provided = 0;
  MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided);
  auto job = std::make_unique<Job>();
  if (job->size() != started) {
    fail(ErrorKind::kInput, "started as one of {} processes, but MPI finds {}: the launcher is that of another MPI",
         started, job->size());
  }
  return job;
}

}  // namespace carousel::mpi
