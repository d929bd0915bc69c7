// SPDX-License-Identifier: Apache-2.0
// A command as one of the processes that mpirun or srun started. A process joins a job once and for all, so the job is
// global, as MPI's own state is.
#pragma once

#include <string>

#include "carousel/train/processes.h"

namespace carousel::cli {

/// Joins the processes that were started together with this one; does nothing where it was started alone. Throws
/// Error(kInput) where they cannot be joined: in a build without MPI, say.
void join_job();
/// The processes of the job. Before join_job() this one is alone.
train::Processes& job();
/// Writes an error, once for all the processes that have it; an empty one is not written. If the others go on, it ends
/// them, with this status.
void report_for_job(const std::string& message, int status);
/// Lets rank 0 go first through a scope, and the others after it: what they would all write, they find. Meeting.
struct FirstGoesFirst {
  FirstGoesFirst();
  ~FirstGoesFirst();
  FirstGoesFirst(const FirstGoesFirst&) = delete;
  FirstGoesFirst& operator=(const FirstGoesFirst&) = delete;
};
/// Leaves the job at the end of its scope.
struct JobScope {
  JobScope() = default;
  ~JobScope();
  JobScope(const JobScope&) = delete;
  JobScope& operator=(const JobScope&) = delete;
};

}  // namespace carousel::cli
