// SPDX-License-Identifier: Apache-2.0
#include "carousel/core/thread.h"

#include <system_error>

namespace carousel {
namespace {

void* run_thread(void* run) {
  (*static_cast<std::function<void()>*>(run))();
  return nullptr;
}

}  // namespace

Thread::Thread(std::function<void()> run) : run_(std::make_unique<std::function<void()>>(std::move(run))) {
  pthread_attr_t attributes;
  int error = pthread_attr_init(&attributes);
  if (error == 0) {
    error = pthread_attr_setstacksize(&attributes, kStackBytes);
    if (error == 0) error = pthread_create(&thread_, &attributes, run_thread, run_.get());
    pthread_attr_destroy(&attributes);
  }
  if (error != 0) throw std::system_error(error, std::system_category(), "cannot start a thread");
}

Thread::~Thread() { join(); }

void Thread::join() {
  if (run_ == nullptr) return;
  pthread_join(thread_, nullptr);
  run_.reset();
}

}  // namespace carousel
