// SPDX-License-Identifier: Apache-2.0
// A program outside of carousel: a folder's model continues a text.
#include <carousel/core/error.h>
#include <carousel/cpu/isa.h>
#include <carousel/generate/batcher.h>

#include <cstdio>

namespace {

void tell(const char* folder) {
  carousel::ThreadPool pool(1);
  const carousel::Stream stream{&carousel::Memory::host(), carousel::cpu::best_isa(), &pool};
  const carousel::model::Model model = carousel::model::load(folder, stream);
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

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fputs("usage: story MODEL\n", stderr);
    return 2;
  }
  try {
    tell(argv[1]);
  } catch (const carousel::Error& error) {  // what is wrong with the model, in one line
    std::fprintf(stderr, "story: %s\n", error.what());
    return 1;
  }
}
