// SPDX-License-Identifier: Apache-2.0
// The processes that mpirun or srun started, behind the interface of train/. MPI's own names are in job_mpi.cc alone;
// job_absent.cc takes its place in a build without MPI.
#pragma once

#include <memory>
#include <string>

#include "carousel/train/processes.h"

namespace carousel::mpi {

/// The MPI that carousel was built with; empty: none.
std::string library();
/// Joins the processes that were started together with this one. `started` is how many the launcher says. Meeting, once
/// for a process. Throws Error(kInput) in a build without MPI, and where MPI finds another number.
std::unique_ptr<train::Processes> join(int started);

}  // namespace carousel::mpi
