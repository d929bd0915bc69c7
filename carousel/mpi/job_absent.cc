// SPDX-License-Identifier: Apache-2.0
// A build without MPI refuses to be one of several processes: they would train the same model side by side.
#include "carousel/core/error.h"
#include "carousel/mpi/job.h"

namespace carousel::mpi {

std::string library() { return ""; }

std::unique_ptr<train::Processes> join(int started) {
  fail(ErrorKind::kInput,
       "started as one of {} processes, but carousel was built without MPI (install libopenmpi-dev and build it again)",
       started);
}

}  // namespace carousel::mpi
