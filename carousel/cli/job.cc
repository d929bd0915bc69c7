// SPDX-License-Identifier: Apache-2.0
// How a process learns from its environment that it was not started alone, and what it does with its errors then.
#include "carousel/cli/job.h"

#include <charconv>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <string_view>
#include <system_error>
#include <thread>

#include "carousel/cli/progress.h"
#include "carousel/cli/signals.h"
#include "carousel/mpi/job.h"

namespace carousel::cli {
namespace {

/// The variables in which a launcher says how many processes it started, and which of them this is: those of Open MPI,
/// of PMI (MPICH and Intel), of MVAPICH, and of srun.
struct Launcher {
  const char *size, *rank;
};
constexpr Launcher kLaunchers[] = {{"OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"},
                                   {"PMI_SIZE", "PMI_RANK"},
                                   {"MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"},
                                   {"SLURM_STEP_NUM_TASKS", "SLURM_PROCID"}};

/// 0 where the variable is not set, or is no number.
int number_of(const char* variable) {
  const char* const text = std::getenv(variable);
  if (text == nullptr) return 0;
  const std::string_view digits = text;
  int value = 0;
  std::from_chars(digits.data(), digits.data() + digits.size(), value);
  return value;
}

/// A process whose others cannot be reached. All have the same error.
class Unjoined : public train::Processes {
 public:
  explicit Unjoined(int rank) : rank_(rank) {}
  int rank() const override { return rank_; }
  /// The launcher ends all processes when one has ended with an error, so that of rank 0, which speaks, ends first.
  bool fails_with_all() override {
    if (rank_ > 0) std::this_thread::sleep_for(std::chrono::seconds(1));
    return true;
  }

 private:
  int rank_;
};

std::unique_ptr<train::Processes>& held() {
  static std::unique_ptr<train::Processes> held = std::make_unique<train::Processes>();
  return held;
}

}  // namespace

train::Processes& job() { return *held(); }

void join_job() {
  for (const Launcher& launcher : kLaunchers) {
    const int started = number_of(launcher.size);
    if (started <= 1) continue;
    const int rank = number_of(launcher.rank);
    if (rank > 0) end_silently();
    held() = std::make_unique<Unjoined>(rank);
    held() = mpi::join(started);
    return;
  }
}

void report_for_job(const std::string& message, int status) {
  const bool all_fail = job().fails_with_all();
  if (!message.empty() && (!all_fail || job().rank() == 0)) note_error(message);
  if (job().size() > 1) end_silently();  // a launcher answers the first process that has ended with signals to the rest
  if (!all_fail) job().end_all(status);
}

FirstGoesFirst::FirstGoesFirst() {
  if (job().rank() > 0) job().wait();
}

FirstGoesFirst::~FirstGoesFirst() {
  if (job().rank() == 0) job().wait();
}

JobScope::~JobScope() { held() = std::make_unique<train::Processes>(); }

}  // namespace carousel::cli
