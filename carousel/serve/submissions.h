// SPDX-License-Identifier: Apache-2.0
// The texts of one request on their way to the engine, a few at a time: one request does not fill its queue.
#pragma once

#include <cstddef>

#include "carousel/serve/call.h"

namespace carousel::serve {

class Submissions {
 public:
  explicit Submissions(size_t count = 0) : count_(count) {}

  /// Calls submit(i) for the texts that may go now. Where others fill the queue, the next end of a text of ours tries
  /// again. Throws HttpError where none is left to end.
  template <class Submit>
  void send(const Submit& submit) {
    try {
      for (; sent_ < count_ && sent_ - ended_ < kInFlight; ++sent_) submit(sent_);
    } catch (const HttpError& error) {
      if (sent_ == ended_ || error.status != 429) throw;
    }
  }
  /// A text has ended. Returns how many have.
  size_t end() { return ++ended_; }

 private:
  static constexpr size_t kInFlight = 32;  // texts that the engine has at a time

  size_t count_;  // of all texts
  size_t sent_ = 0, ended_ = 0;
};

}  // namespace carousel::serve
