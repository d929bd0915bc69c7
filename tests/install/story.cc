// SPDX-License-Identifier: Apache-2.0
// A program outside of carousel: a folder's model continues a text.
#include <carousel/cpu/isa.h>
#include <carousel/generate/batcher.h>

#include <cstdio>

int main(int, char** argv) {
  carousel::ThreadPool pool(1);
  const carousel::Stream stream{&carousel::Memory::host(), carousel::cpu::best_isa(), &pool};
  const carousel::model::Model model = carousel::model::load(argv[1], stream);
  carousel::generate::Request request;
  request.prompt = model.text().encode("Once upon a time");
  request.sampler.temp = 0;
  request.max_tokens = 8;
  request.on_token = [](const carousel::generate::Emitted& token) {
    return std::fwrite(token.text.data(), 1, token.text.size(), stdout) == token.text.size();
  };
  carousel::generate::generate(model, stream, request);
  std::puts("");
}
