// SPDX-License-Identifier: Apache-2.0
// The table of pandas' names, and the checks of a named step against the times.
#include "carousel/forecast/alias.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <limits>
#include <string_view>

#include "carousel/core/error.h"
#include "carousel/forecast/dates.h"

namespace carousel::forecast {
namespace {

using Unit = Frequency::Unit;

constexpr std::string_view kWeekdays[] = {"MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN"};
constexpr std::string_view kWeekdayNames[] = {"Monday", "Tuesday",  "Wednesday", "Thursday",
                                              "Friday", "Saturday", "Sunday"};
constexpr std::string_view kMonths[] = {"JAN", "FEB", "MAR", "APR", "MAY", "JUN",
                                        "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"};
constexpr int64_t kMaxStep = 999999;

struct Tick {
  std::string_view name;
  int64_t seconds;
};
constexpr Tick kTicks[] = {{"s", 1},    {"S", 1},    {"min", 60},        {"T", 60},
                           {"h", 3600}, {"H", 3600}, {"D", kDaySeconds}, {"d", kDaySeconds}};

// The first name of each row is the one frequency_alias gives.
struct Monthly {
  std::string_view names[3];
  int months;
  bool end;       // its last day, not its first
  bool business;  // that is no weekend
};
constexpr Monthly kMonthly[] = {
    {{"MS"}, 1, false, false},           {{"ME", "M"}, 1, true, false},     {{"BMS"}, 1, false, true},
    {{"BME", "BM"}, 1, true, true},      {{"QS"}, 3, false, false},         {{"QE", "Q"}, 3, true, false},
    {{"BQS"}, 3, false, true},           {{"BQE", "BQ"}, 3, true, true},    {{"YS", "AS"}, 12, false, false},
    {{"YE", "Y", "A"}, 12, true, false}, {{"BYS", "BAS"}, 12, false, true}, {{"BYE", "BY", "BA"}, 12, true, true},
};

constexpr std::string_view kUnsupported[] = {"C",   "CBMS", "CBME", "CBM", "WOM", "LWOM", "bh", "BH", "cbh", "CBH",
                                             "REQ", "RE",   "ms",   "L",   "us",  "U",    "ns", "N",  "EOM"};

// What a name asks for.
struct Alias {
  Frequency frequency;
  int weekday = -1;        // of every time, Monday is 0; -1: any
  int month = -1;          // of some time, January is 0; -1: any
  int span = 1;            // months after which its months repeat
  int pandas_anchor = -1;  // the weekday or month pandas takes where the name says none; -1: it did, or has none
};

template <size_t n>
int index_of(const std::string_view (&names)[n], std::string_view name) {
  const auto found = std::find(std::begin(names), std::end(names), name);
  return found == std::end(names) ? -1 : static_cast<int>(found - std::begin(names));
}

std::optional<int64_t> take_step(std::string_view& text) {
  if (text.empty() || text[0] < '0' || text[0] > '9') return 1;
  int64_t step = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), step);
  if (error != std::errc() || step < 1 || step > kMaxStep) return std::nullopt;
  text.remove_prefix(static_cast<size_t>(end - text.data()));
  return step;
}

// "15min", "D", "1h30min".
std::optional<Alias> parse_ticks(std::string_view text) {
  int64_t total = 0;
  while (!text.empty()) {
    const auto step = take_step(text);
    const size_t size = std::min(text.find_first_of("0123456789"), text.size());
    const auto tick = std::find_if(std::begin(kTicks), std::end(kTicks),
                                   [&](const Tick& one) { return one.name == text.substr(0, size); });
    if (!step || tick == std::end(kTicks)) return std::nullopt;
    total += *step * tick->seconds;
    text.remove_prefix(size);
  }
  if (total == 0) return std::nullopt;
  return Alias{{Unit::kSeconds, total}};
}

std::optional<Alias> parse_half_months(std::string_view name, bool anchored, std::string_view anchor, int64_t step) {
  const bool start = name == "SMS";
  if (!start && name != "SME" && name != "SM") return std::nullopt;
  Alias alias{{Unit::kHalfMonths, step, 15, false, !start}};
  if (!anchored) return alias;
  const auto [end, error] = std::from_chars(anchor.data(), anchor.data() + anchor.size(), alias.frequency.anchor_day);
  const bool whole = error == std::errc() && end == anchor.data() + anchor.size();
  if (!whole || alias.frequency.anchor_day < (start ? 2 : 1) || alias.frequency.anchor_day > 27) return std::nullopt;
  return alias;
}

std::optional<Alias> parse_alias(std::string_view text) {
  if (const auto ticks = parse_ticks(text)) return ticks;
  const auto step = take_step(text);
  if (!step) return std::nullopt;
  const size_t hyphen = text.find('-');
  const std::string_view name = text.substr(0, hyphen);
  const bool anchored = hyphen != text.npos;
  const std::string_view anchor = anchored ? text.substr(hyphen + 1) : std::string_view();
  if (name == "B" && !anchored) return Alias{{Unit::kBusinessDays, *step}};
  if (name == "W") {
    const int day = index_of(kWeekdays, anchor);
    if (anchored && day < 0) return std::nullopt;
    return Alias{{Unit::kSeconds, *step * 7 * kDaySeconds}, day, -1, 1, anchored ? -1 : 6};
  }
  for (const Monthly& row : kMonthly) {
    if (name.empty() || index_of(row.names, name) < 0) continue;
    const int month = index_of(kMonths, anchor);
    if (anchored && (month < 0 || row.months == 1)) return std::nullopt;
    Alias alias{{Unit::kMonths, *step * row.months, row.end ? 31 : 1, row.business}, -1, month, row.months};
    if (!anchored && row.months > 1) alias.pandas_anchor = row.end ? 11 : 0;
    return alias;
  }
  return parse_half_months(name, anchored, anchor, *step);
}

bool lies_on(const Alias& alias, int64_t time) {
  if (alias.weekday >= 0 && weekday(floor_div(time, kDaySeconds)) != alias.weekday) return false;
  if (alias.month >= 0 && (month_index(time) - alias.month) % alias.span != 0) return false;
  return alias.frequency.advance(time, 0) == time;
}

// Steps between neighbours: the least, 0 where some are not whole; and how many neighbours there are.
struct Gaps {
  int64_t least = std::numeric_limits<int64_t>::max();
  int64_t count = 0;
};
Gaps find_gaps(const Frequency& frequency, const SeriesTimes& series) {
  Gaps gaps;
  for (const auto& times : series) {
    for (size_t i = 1; i < times.size(); ++i) {
      gaps.least = std::min(gaps.least, frequency.steps(times[i - 1], times[i]).value_or(0));
      ++gaps.count;
    }
  }
  return gaps;
}

// Throws where the times say otherwise than the name: one is off its days, or they are regular by another step.
void check_times(const std::string& text, const Alias& alias, const SeriesTimes& series, const TimeStyle& style) {
  const auto inferred = infer_frequency(series, style.integer);
  for (const auto& times : series) {
    for (const int64_t time : times) {
      if (lies_on(alias, time)) continue;
      const std::string has =
          inferred ? fmt::format("; the times have {}", frequency_alias(*inferred, times.back())) : std::string();
      fail(ErrorKind::kInput, "--freq: got \"{}\", but {} (a {}) is not one of its days{}", text,
           format_timestamp(time, style), kWeekdayNames[weekday(floor_div(time, kDaySeconds))], has);
    }
  }
  if (!inferred) return;
  const Gaps own = find_gaps(*inferred, series), given = find_gaps(alias.frequency, series);
  if (own.count < 2 || own.least != 1 || given.least == 1) return;
  fail(ErrorKind::kInput, "--freq: got \"{}\", but the times have {}, expected that or no --freq", text,
       frequency_alias(*inferred, series.front().back()));
}

// A style of months or years knows no days: its times are first of months, whatever the name says of starts and ends.
void fit_style(const std::string& text, Alias& alias, const TimeStyle& style) {
  Frequency& frequency = alias.frequency;
  using Finest = TimeStyle::Finest;
  const Finest finest = style.finest();
  if (finest == Finest::kYear || finest == Finest::kMonth) {
    const bool years = finest == Finest::kYear;
    if (frequency.unit != Unit::kMonths || (years && frequency.step % 12 != 0)) {
      fail(ErrorKind::kUsage, "--freq: got \"{}\", expected whole {} such as {}, as the times are {} alone", text,
           years ? "years" : "months", years ? "YS" : "MS", years ? "years" : "months");
    }
    frequency.anchor_day = 1;
    frequency.business = false;
    if (years) alias.month = -1;
    return;
  }
  const int64_t unit = style.digits == 8 ? kDaySeconds : style.digits == 10 ? 3600 : style.digits == 12 ? 60 : 1;
  if (frequency.unit != Unit::kSeconds || frequency.step % unit == 0) return;
  fail(ErrorKind::kUsage, "--freq: got \"{}\", expected no less than the times' {} digits can write", text,
       style.digits);
}

// A name without an anchor takes that of the times.
void take_anchor(const std::string& text, const Alias& alias, const SeriesTimes& series,
                 std::vector<std::string>& notes) {
  if (alias.pandas_anchor < 0 || series.empty() || series.front().empty()) return;
  const int64_t time = series.front().back();
  Alias pandas = alias;
  (alias.frequency.unit == Unit::kMonths ? pandas.month : pandas.weekday) = alias.pandas_anchor;
  if (lies_on(pandas, time)) return;
  notes.push_back(
      fmt::format("--freq \"{}\" is read as {}, which the times have", text, frequency_alias(alias.frequency, time)));
}

Frequency parse_count(const std::string& text, const SeriesTimes& series, const TimeStyle& style) {
  int64_t step = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), step);
  if (error != std::errc() || end != text.data() + text.size() || step < 1) {
    fail(ErrorKind::kUsage, "--freq: got \"{}\", expected an integer, as the timestamps are integers", text);
  }
  check_times(text, {{Unit::kCount, step}}, series, style);
  return {Unit::kCount, step};
}

}  // namespace

Frequency parse_frequency(const std::string& text, const SeriesTimes& times, const TimeStyle& style,
                          std::vector<std::string>& notes) {
  if (style.integer) return parse_count(text, times, style);
  auto alias = parse_alias(text);
  if (!alias) {
    std::string_view name = text;
    take_step(name);
    name = name.substr(0, name.find('-'));
    const bool known = index_of(kUnsupported, name) >= 0;
    fail(ErrorKind::kUsage,
         "--freq: got \"{}\"{}, expected a pandas alias such as 15min, h, D, B, W-SUN, MS, ME, BME, "
         "QS-OCT, QE-DEC, YE-DEC",
         text, known ? ", which is not supported" : "");
  }
  fit_style(text, *alias, style);
  check_times(text, *alias, times, style);
  if (style.finest() != TimeStyle::Finest::kYear) take_anchor(text, *alias, times, notes);
  return alias->frequency;
}

std::string frequency_alias(const Frequency& frequency, int64_t at) {
  const auto counted = [](int64_t count, std::string_view name) {
    return count == 1 ? std::string(name) : fmt::format("{}{}", count, name);
  };
  if (frequency.unit == Unit::kBusinessDays) return counted(frequency.step, "B");
  if (frequency.unit == Unit::kHalfMonths) {
    return fmt::format("{}-{}", counted(frequency.step, frequency.ends ? "SME" : "SMS"), frequency.anchor_day);
  }
  if (frequency.unit == Unit::kSeconds) {
    const int64_t step = frequency.step;
    if (step % (7 * kDaySeconds) == 0) {
      const auto day = static_cast<size_t>(weekday(floor_div(at, kDaySeconds)));
      return fmt::format("{}-{}", counted(step / (7 * kDaySeconds), "W"), kWeekdays[day]);
    }
    for (const Tick& tick : {kTicks[6], kTicks[4], kTicks[2], kTicks[0]}) {
      if (step % tick.seconds == 0) return counted(step / tick.seconds, tick.name);
    }
  }
  if (frequency.unit == Unit::kMonths && (frequency.anchor_day == 1 || frequency.anchor_day == 31)) {
    const int span = frequency.step % 12 == 0 ? 12 : frequency.step % 3 == 0 ? 3 : 1;
    const auto month = static_cast<int>(month_index(at) % 12);
    for (const Monthly& row : kMonthly) {
      if (row.months != span || row.end != (frequency.anchor_day == 31) || row.business != frequency.business) continue;
      const std::string name = counted(frequency.step / span, row.names[0]);
      return span == 1 ? name : fmt::format("{}-{}", name, kMonths[span == 12 ? month : (row.end ? 9 : 0) + month % 3]);
    }
  }
  return frequency.unit == Unit::kCount ? std::to_string(frequency.step) : frequency.str();
}

}  // namespace carousel::forecast
