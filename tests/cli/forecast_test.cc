// SPDX-License-Identifier: Apache-2.0
// carousel forecast as a user runs it, on a model of 4512 parameters whose forecasts are known (tests/fixtures/tirex).
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "tests/cli/run_command.h"

namespace carousel::cli {
namespace {

const std::string kModel = CAROUSEL_SOURCE_DIR "/tests/fixtures/tirex/tiny.ckpt";

TEST(Forecast, ForecastsAndDraws) {
  const Scratch scratch;
  write_file(scratch / "ramp.csv", "0\n1\n2\n3\n");
  const std::string arguments = "forecast " + kModel + " --csv " + (scratch / "ramp.csv") +
                                " --horizon 6 --quantiles 0.1,0.5,0.9 --plot " + (scratch / "p.svg");
  const Ran ran = run_carousel(arguments);
  ASSERT_EQ(ran.status, 0) << ran.err;
  EXPECT_EQ(ran.out.find("item_id,timestamp,predictions,0.1,0.5,0.9\nseries 1,4,-0.0403"), 0u) << ran.out;
  EXPECT_EQ(std::count(ran.out.begin(), ran.out.end(), '\n'), 7);
  EXPECT_NE(read_file(scratch / "p.svg").find("</svg>"), std::string::npos);
  EXPECT_EQ(run_carousel(arguments + " -t 1").out, ran.out) << "the same bytes on any number of threads";
  EXPECT_EQ(run_carousel(arguments + " --out " + (scratch / "o.csv")).out, "");
  EXPECT_EQ(read_file(scratch / "o.csv"), ran.out);
}

TEST(Forecast, FollowsTheTablesConvention) {
  const Scratch scratch;
  write_file(scratch / "long.csv",
             "\xEF\xBB\xBFunique_id,ds,y\r\na,2020-01-31,1\r\na,2020-02-29,NaN\r\na,2020-03-31,3\r\n\r\n");
  const std::string arguments =
      "forecast " + kModel + " --csv " + (scratch / "long.csv") + " --horizon 2 --quantiles 0.1,0.9";
  const Ran nixtla = run_carousel(arguments);
  EXPECT_EQ(nixtla.out.find("unique_id,ds,TiRex,TiRex-lo-80,TiRex-hi-80\na,2020-04-30,"), 0u)
      << nixtla.out << nixtla.err;
  EXPECT_NE(nixtla.out.find("\na,2020-05-31,"), std::string::npos);
  const Ran chronos = run_carousel(arguments + " --style chronos");
  EXPECT_EQ(chronos.out.find("unique_id,ds,predictions,0.1,0.9\n"), 0u) << chronos.out;
}

TEST(Forecast, RefusesInOneLine) {
  const Scratch scratch;
  write_file(scratch / "a.csv", "ds,y\n2020-01-01,1\n2020-01-01,2\n");
  write_file(scratch / "b.csv", "1\n2\n");
  const std::string base = "forecast " + kModel + " --csv ";
  const auto refused = [&](const std::string& arguments, int status, const std::string& text) {
    const Ran ran = run_carousel(base + arguments);
    EXPECT_EQ(ran.status, status) << ran.err;
    EXPECT_NE(ran.err.find(text), std::string::npos) << ran.err;
    EXPECT_EQ(ran.out, "");
  };
  refused((scratch / "a.csv") + " --horizon 1", 1,
          "a.csv:3: column 1 \"ds\": the time \"2020-01-01\" is there already");
  refused((scratch / "b.csv") + " --horizon 0", 2, "--horizon: got \"0\"");
  refused((scratch / "b.csv") + " --horizon 1 --quantiles 0.95", 2, "--quantiles: got 0.95, expected 0.1 to 0.9");
  refused((scratch / "b.csv") + " --horizon 1 --quantiles 0.5,0.5", 2, "expected increasing levels");
  refused((scratch / "b.csv") + " --horizon 1 --column z", 1, "--column: no column \"z\"");
  refused((scratch / "none.csv") + " --horizon 1", 1, "none.csv");
}

// Before anything is computed, so that nothing was printed either.
TEST(Forecast, WritesOverNeitherItsInputNorADevice) {
  const Scratch scratch;
  const std::string csv = scratch / "ramp.csv", text = "0\n1\n2\n3\n";
  write_file(csv, text);
  for (const std::string flag : {" --out ", " --plot "}) {
    const std::string start = "forecast " + kModel + " --csv " + csv + " --horizon 2" + flag;
    for (const auto& [path, why] :
         {std::pair(csv, "the input, expected another file"), std::pair(std::string("/dev/null"), "is no regular file"),
          std::pair(scratch / "no/file", "cannot write here: No such file or directory")}) {
      const Ran ran = run_carousel(start + path);
      EXPECT_EQ(ran.status, 1) << flag << path;
      EXPECT_EQ(ran.out, "");
      EXPECT_NE(ran.err.find(path + ": "), std::string::npos) << ran.err;
      EXPECT_NE(ran.err.find(why), std::string::npos) << ran.err;
    }
  }
  EXPECT_EQ(read_file(csv), text);
}

TEST(Forecast, WritesOverNeitherItsModelNorItsOtherOutput) {
  const Scratch scratch;
  write_file(scratch / "ramp.csv", "0\n1\n2\n3\n");
  const std::string model = scratch / "m.ckpt";
  std::filesystem::copy_file(kModel, model);
  const std::string start = "forecast " + model + " --csv " + (scratch / "ramp.csv") + " --horizon 2";
  const Ran over = run_carousel(start + " --out " + model);
  EXPECT_EQ(over.status, 1);
  EXPECT_NE(over.err.find("the input, expected another file"), std::string::npos) << over.err;
  EXPECT_EQ(read_file(model), read_file(kModel));
  const Ran twice = run_carousel(start + " --out " + (scratch / "f") + " --plot " + (scratch / "./f"));
  EXPECT_EQ(twice.status, 1);
  EXPECT_NE(twice.err.find("the file of another output, expected one for each"), std::string::npos) << twice.err;
  EXPECT_FALSE(std::filesystem::exists(scratch / "f"));
}

TEST(Forecast, WeightsInOtherTypes) {
  const Scratch scratch;
  write_file(scratch / "ramp.csv", "0\n1\n2\n3\n");
  const auto forecast = [&](const std::string& model, const std::string& flags) {
    return run_carousel("forecast " + model + " --csv " + (scratch / "ramp.csv") + " --horizon 6 " + flags);
  };
  const std::string own = forecast(kModel, "").out;
  EXPECT_EQ(forecast(kModel, "--weights f32").out, own);
  for (const char* type : {"f16", "bf16"}) {
    const std::string flag = std::string(" ") + type, out = scratch / type;
    ASSERT_EQ(run_carousel("quantize " + kModel + " --type" + flag + " --out " + out).status, 0);
    const Ran loaded = forecast(kModel, "--weights" + flag);
    EXPECT_EQ(loaded.status, 0) << loaded.err;
    EXPECT_EQ(loaded.out, forecast(out, "").out) << type;
    EXPECT_NE(loaded.out, own) << type;
  }
  const Ran head = forecast(kModel, "--head f16");
  EXPECT_EQ(head.status, 2);
  EXPECT_NE(head.err.find("--head: got f16, but "), std::string::npos) << head.err;
}

TEST(Forecast, LongHorizonsAreWarnedOf) {
  const Scratch scratch;
  write_file(scratch / "b.csv", "1\n2\n");
  const Ran ran =
      run_carousel("forecast " + kModel + " --csv " + (scratch / "b.csv") + " --horizon 17 --quantiles 0.5");
  EXPECT_EQ(ran.status, 0);
  EXPECT_NE(ran.err.find("warning: --horizon 17 is longer than the model's context of 16"), std::string::npos)
      << ran.err;
}

// The last line of what was written.
std::string last_line(const std::string& text) {
  const size_t end = text.find_last_not_of('\n');
  const size_t before = text.find_last_of('\n', end);
  return text.substr(before + 1, end - before);
}
Ran forecast_of(const Scratch& scratch, const std::string& text, const std::string& flags = "") {
  write_file(scratch / "t.csv", text);
  return run_carousel("forecast " + kModel + " --csv " + (scratch / "t.csv") + " --horizon 2 --quantiles 0.5 " + flags);
}

// One table in the spellings of editors, spreadsheets and pandas.
TEST(Forecast, SpellingsOfATableAreAlike) {
  const Scratch scratch;
  const std::string rows = "2021-01-30,10\n2021-01-31,11.5\n2021-02-01,12\n2021-02-02,NaN\n2021-02-03,13\n";
  const auto numbers = [&](const std::string& text, const std::string& flags = "") {
    const Ran ran = forecast_of(scratch, text, flags);
    EXPECT_EQ(ran.status, 0) << text << ran.err;
    const std::string line = last_line(ran.out);
    const size_t time = line.find(',') + 1;
    return line.substr(line.find(',', time));
  };
  const auto replaced = [](std::string text, const std::string& from, const std::string& to) {
    for (size_t at = text.find(from); at != text.npos; at = text.find(from, at + to.size()))
      text.replace(at, from.size(), to);
    return text;
  };
  const std::string text = "date,value\n" + rows, expected = numbers(text);
  EXPECT_EQ(numbers(replaced(text, "\n", "\r\n")), expected);
  EXPECT_EQ(numbers("\xEF\xBB\xBF" + text), expected);
  EXPECT_EQ(numbers(text.substr(0, text.size() - 1)), expected);
  EXPECT_EQ(numbers(replaced(text, "-", "")), expected) << "20210130";
  EXPECT_EQ(numbers(replaced(text, ",", "\t")), expected);
  EXPECT_EQ(numbers("sep=;\r\n" + replaced(text, ",", ";")), expected);
  EXPECT_EQ(numbers(replaced(replaced(text, ",", ";"), ".", ","), "--decimal comma"), expected);
  EXPECT_EQ(numbers(text + ",\n,\n"), expected);
  EXPECT_EQ(numbers(replaced(text, "NaN", "#N/A")), expected);
  EXPECT_EQ(numbers(replaced(replaced(text, ",1", " 00:00:00+00:00,1"), ",NaN", " 00:00:00Z,")), expected);
  std::string indexed = ",date,value\n";
  int row = 5;
  for (const char c : "\n" + rows.substr(0, rows.size() - 1)) {
    if (c != '\n' || row > 5) indexed += c;
    if (c == '\n') indexed += std::to_string(row++) + ",";
  }
  EXPECT_EQ(numbers(indexed), expected);
}

TEST(Forecast, ReadsPipes) {
  const Scratch scratch;
  const std::string start = "forecast " + kModel + " --horizon 2 --csv ";
  write_file(scratch / "t.csv", "1\n2\n4\n");
  const Ran file = run_carousel(start + (scratch / "t.csv"));
  ASSERT_EQ(file.status, 0) << file.err;
  EXPECT_EQ(run_carousel(start + "/dev/stdin", "1\n2\n4\n").out, file.out);
  const std::string pipe = scratch / "pipe";
  ASSERT_EQ(std::system(("mkfifo " + pipe + " && (cat " + (scratch / "t.csv") + " > " + pipe + " &)").c_str()), 0);
  EXPECT_EQ(run_carousel(start + pipe).out, file.out);
  EXPECT_EQ(run_carousel(start + scratch.path()).status, 1) << "a folder";
}

TEST(Forecast, WhatOverflowsIsRefused) {
  const Scratch scratch;
  const Ran ran = forecast_of(scratch, "v\n1e37\n-3e38\n3e38\n2e38\n", "--out " + (scratch / "o.csv"));
  EXPECT_EQ(ran.status, 1);
  EXPECT_NE(ran.err.find("the forecast of \"v\" is no finite number"), std::string::npos) << ran.err;
  EXPECT_FALSE(std::filesystem::exists(scratch / "o.csv"));
  EXPECT_NE(forecast_of(scratch, "v\n1\n1e39\n").err.find("t.csv:3: column 1 \"v\": got \"1e39\""), std::string::npos);
}

TEST(Forecast, TakesPandasFrequencies) {
  const Scratch scratch;
  const std::string text = "ds,y\n2020-10-30,1\n2020-11-30,2\n2020-12-31,3\n2021-01-29,4\n";
  EXPECT_EQ(last_line(forecast_of(scratch, text, "--freq BME").out).rfind("y,2021-03-31,", 0), 0u);
  EXPECT_EQ(last_line(forecast_of(scratch, text, "--freq BM").out).rfind("y,2021-03-31,", 0), 0u);
  EXPECT_EQ(last_line(forecast_of(scratch, text).out).rfind("y,2021-03-31,", 0), 0u) << "inferred";
  const Ran other = forecast_of(scratch, text, "--freq ME");
  EXPECT_EQ(other.status, 1);
  EXPECT_NE(other.err.find("2020-10-30 (a Friday) is not one of its days; the times have BME"), std::string::npos)
      << other.err;
  EXPECT_EQ(forecast_of(scratch, text, "--freq Wxyz").status, 2);
}

TEST(Forecast, PicturesOfAnyNameAreXml) {
  const Scratch scratch;
  const std::string flags = "--plot " + (scratch / "p.svg") + " --out " + (scratch / "o.csv");
  ASSERT_EQ(forecast_of(scratch, "ds,\"T\xE9\x02<&>\"\n2020-01-01,1\n2020-01-02,2\n", flags).status, 0);
  const std::string svg = read_file(scratch / "p.svg");
  EXPECT_NE(svg.find("T\xEF\xBF\xBD\xEF\xBF\xBD&lt;&amp;&gt;</text>"), std::string::npos) << svg;
  EXPECT_EQ(svg.find_first_of("\x01\x02\xE9"), std::string::npos);
}

TEST(Forecast, VerifiesTheReferenceCase) {
  const std::string folder = shared("golden/tirex-tiny");
  if (is_absent(folder)) GTEST_SKIP() << folder;
  const Ran ran = run_carousel("verify --strict " + folder);
  EXPECT_EQ(ran.status, 0) << ran.out << ran.err;
  EXPECT_NE(ran.out.find("12 ok, 0 FAIL, 0 skip"), std::string::npos) << ran.out;
}

}  // namespace
}  // namespace carousel::cli
