// SPDX-License-Identifier: Apache-2.0
// The measurements of `bench --serve`: every line is there with all its rounds. Whether it is fast is not tested.
#include "carousel/serve/measure.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "carousel/core/error.h"
#include "carousel/serve/loopback.h"
#include "tests/scratch.h"
#include "tests/serve/client.h"
#include "tests/serve/small_model.h"

namespace carousel::serve {
namespace {

MeasureOptions small_options(const Scratch& scratch) {
  MeasureOptions options;
  options.rounds = 2;
  options.scratch = scratch.path();
  options.stream_tokens = 6;
  options.seen_tokens = options.forked_tokens = 200;
  options.choices = 3;
  options.read_tokens = 300;
  options.phase_seconds = 0.05;
  options.open_streams = 70;
  options.repeats = 3;
  return options;
}

TEST(MeasureServing, EveryLineHasItsRounds) {
  const Scratch scratch;
  const SmallModel small;
  std::vector<Measured> lines;
  measure_serving(small.model, small.stream, small_options(scratch),
                  [&](const Measured& line) { lines.push_back(line); }, {});
  const std::vector<std::string> names = measured_names();
  ASSERT_EQ(lines.size(), names.size());
  for (size_t i = 0; i < lines.size(); ++i) {
    const Measured& line = lines[i];
    EXPECT_EQ(line.name, names[i]);
    EXPECT_EQ(line.served.size(), 2u);
    EXPECT_EQ(line.beside.size(), 2u);
    for (const double beside : line.beside) EXPECT_GT(beside, 0) << line.name;
    if (line.name == "open-memory") continue;  // six streams may fit into what was there
    for (const double served : line.served) EXPECT_GT(served, 0) << line.name;
    EXPECT_GT(line.value, 0) << line.name;
  }
  EXPECT_TRUE(std::filesystem::is_empty(scratch.path()));
}

TEST(MeasureServing, LinesAreChosenByName) {
  const Scratch scratch;
  const SmallModel small;
  MeasureOptions options = small_options(scratch);
  options.only = {"disconnect", "seen"};
  std::vector<std::string> names;
  measure_serving(small.model, small.stream, options, [&](const Measured& line) { names.push_back(line.name); }, {});
  EXPECT_EQ(names, (std::vector<std::string>{"seen", "disconnect"}));
}

TEST(MeasureServing, StopsWhenItIsAskedTo) {
  const Scratch scratch;
  const SmallModel small;
  int asked = 0, told = 0;
  measure_serving(
      small.model, small.stream, small_options(scratch), [&](const Measured&) { told++; }, [&] { return ++asked > 2; });
  EXPECT_EQ(told, 0);
}

TEST(Loopback, ACallerCountsTheEventsOfItsStream) {
  const Scratch scratch;
  const SmallModel small;
  ServiceOptions options;
  options.name = "small";
  options.scratch = scratch.path();
  const Loopback server(small.model, small.stream, options);
  Callers callers;
  callers.push_back(std::make_unique<Caller>(server.port()));
  Caller& caller = *callers[0];
  caller.note_times();
  const Json body = {{"prompt", "data: {"}, {"max_tokens", 7}, {"stream", true},
                     {"logprobs", 0},       {"echo", true},    {"seed", 5}};
  caller.ask("POST", "/v1/completions", body);
  read_until(callers, [&] { return caller.ended(); }, {});
  Client client(server.port());
  client.ask("POST", "/v1/completions", body.dump());
  const std::string whole = "\n" + client.answer().body;
  int64_t events = 0;
  for (size_t at = 0; (at = whole.find("\ndata: {", at)) != whole.npos; ++at) events++;
  EXPECT_GE(events, 9);  // the prompt, 7 tokens and the end
  EXPECT_EQ(caller.events(), events);
  EXPECT_EQ(static_cast<int64_t>(caller.times().size()), events);

  callers[0] = std::make_unique<Caller>(server.port());
  callers[0]->ask("POST", "/tokenize", {{"content", "AB"}});
  read_until(callers, [&] { return callers[0]->ended(); }, {});
  EXPECT_EQ(callers[0]->body()["tokens"], Json({65, 66}));
}

TEST(Loopback, AnAnswerThatIsAnErrorIsThrown) {
  const Scratch scratch;
  const SmallModel small;
  ServiceOptions options;
  options.name = "small";
  const Loopback server(small.model, small.stream, options);
  Callers callers;
  callers.push_back(std::make_unique<Caller>(server.port()));
  callers[0]->ask("POST", "/v1/completions", {{"prompt", 5}});
  try {
    read_until(callers, [&] { return callers[0]->ended(); }, {});
    FAIL() << "the prompt is a number";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("400"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("expected text"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace carousel::serve
