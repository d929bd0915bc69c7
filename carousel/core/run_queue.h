// SPDX-License-Identifier: Apache-2.0
// How long the threads of this process were kept from running by other threads: a timing taken meanwhile is disturbed.
#pragma once

namespace carousel {

/// Seconds that all threads alive now have waited for a core since they began, summed; 0 where the system does not
/// count them. A thread that sleeps or holds a core does not wait.
double seconds_waited_for_cores();

}  // namespace carousel
