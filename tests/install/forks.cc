// SPDX-License-Identifier: Apache-2.0
// A program outside of carousel: a text is read once, and its state is continued in two ways. docs/library.md shows it.
#include <carousel/core/error.h>
#include <carousel/cpu/isa.h>
#include <carousel/generate/batcher.h>

#include <cstdio>
#include <string>

using carousel::generate::Emitted;
using carousel::generate::Finished;
using carousel::generate::Request;

namespace {

/// Runs `request`, prints what it writes, and gives how it ended, with the state.
Finished run(const carousel::model::Model& model, const carousel::Stream& stream, Request request) {
  Finished end;
  request.keep_state = true;
  request.sampler.temp = 0;
  request.on_token = [](const Emitted& token) {
    std::printf("%.*s", static_cast<int>(token.text.size()), token.text.data());
    return true;  // false would cancel
  };
  request.on_finish = [&end](Finished& finished) {
    std::printf("%.*s\n", static_cast<int>(finished.text.size()), finished.text.data());
    end = std::move(finished);
    end.text = {};  // it is valid during the callback alone
  };
  carousel::generate::generate(model, stream, std::move(request));
  return end;
}

void tell(const char* folder) {
  carousel::ThreadPool pool(1);
  const carousel::Stream stream{&carousel::Memory::host(), carousel::cpu::best_isa(), &pool};
  const carousel::model::Model model = carousel::model::load(folder, stream);
  Request begin;
  begin.prompt = model.text().encode("Once upon a time");
  begin.max_tokens = 8;
  const Finished told = run(model, stream, std::move(begin));
  for (const std::string text : {". Her dog", ". Her cat"}) {
    Request fork;
    fork.state = told.state;  // a copy: what `told` holds does not change
    fork.history = told.history;
    fork.logits = told.logits;
    fork.prompt = model.text().encode(text, false);
    fork.max_tokens = 6;
    run(model, stream, std::move(fork));
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fputs("usage: forks MODEL\n", stderr);
    return 2;
  }
  try {
    tell(argv[1]);
  } catch (const carousel::Error& error) {  // what is wrong with the model, in one line
    std::fprintf(stderr, "forks: %s\n", error.what());
    return 1;
  }
}
