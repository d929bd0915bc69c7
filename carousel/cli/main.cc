// SPDX-License-Identifier: Apache-2.0
// carousel: a table of commands, and the one place where an Error becomes a line on standard error and a status:
// 1, 2 for a command line that does not parse, 130 when interrupted, 141 when nobody reads the output any more.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <new>
#include <numeric>
#include <string>
#include <system_error>
#include <vector>

#include "carousel/cli/command.h"
#include "carousel/cli/job.h"
#include "carousel/cli/progress.h"
#include "carousel/cli/signals.h"
#include "carousel/cli/typed_names.h"
#include "carousel/core/error.h"
#include "carousel/mpi/job.h"

namespace carousel::cli {
namespace {

constexpr Command kCommands[] = {
    {"bench", "Measure prompt and decode speed, and the machine's own bounds", setup_bench},
    {"chat", "Talk with a model: turns, branches, steps back", setup_chat},
    {"compare", "How far two numeric profiles drift apart, block by block", setup_compare},
    {"convert", "A model to GGUF, or from GGUF to safetensors", setup_convert},
    {"eval", "Likelihood of a text, last-word accuracy", setup_eval},
    {"forecast", "Quantiles of what comes next in a CSV's series", setup_forecast},
    {"generate", "Continue a prompt, streaming", setup_generate},
    {"info", "Blocks, parameters and sizes of a model or a config", setup_info},
    {"init", "Make an initialised model from a config", setup_init},
    {"merge", "A model and an adapter to one model", setup_merge},
    {"plot", "Draw the loss curves of training runs", setup_plot},
    {"predict", "Rows of features through a model that is no language model", setup_predict},
    {"quantize", "Write a model's weights in a narrower type", setup_quantize},
    {"serve", "Answer OpenAI's HTTP requests with a model", setup_serve},
    {"tokenize", "Text to token ids and back", setup_tokenize},
    {"train", "Train a model, or go on with a run", setup_train},
    {"verify", "Compare a model with a reference case", setup_verify},
    {"wiring", "Count and draw the circuit a config describes", setup_wiring},
};

std::string command_names() {
  std::string names;
  for (const Command& command : kCommands) names += (names.empty() ? "" : ", ") + std::string(command.name);
  return names;
}

void print_help() {
  std::string text = "carousel: recurrent and hybrid sequence models\n\nUsage: carousel COMMAND [OPTIONS]\n\n";
  for (const Command& command : kCommands) text += fmt::format("  {:<10} {}\n", command.name, command.summary);
  text +=
      "\n`carousel COMMAND --help` lists the options of a command; `carousel --version` says which carousel it is.\n";
  std::fwrite(text.data(), 1, text.size(), stdout);
}

size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i + 1;
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t replaced = diagonal + (a[i] != b[j]);
      diagonal = row[j + 1];
      row[j + 1] = std::min({replaced, row[j] + 1, row[j + 1] + 1});
    }
  }
  return row.back();
}

/// "; did you mean ...?" when a known word is near.
std::string suggestion(const std::string& word, const std::vector<std::string>& known) {
  const auto nearer = [&](const auto& a, const auto& b) { return edit_distance(word, a) < edit_distance(word, b); };
  const auto best = std::min_element(known.begin(), known.end(), nearer);
  if (best == known.end() || edit_distance(word, *best) > std::max<size_t>(2, word.size() / 2)) return "";
  return fmt::format("; did you mean \"{}\"?", *best);
}

/// Throws Error(kUsage) for the first argument no option took, unknown flags before stray words.
void refuse_extras(const CLI::App& app, const char* command) {
  const std::vector<std::string> extras = app.remaining();
  if (extras.empty()) return;
  const auto is_flag = [](const std::string& word) { return word.size() > 1 && word[0] == '-'; };
  const auto flag = std::find_if(extras.begin(), extras.end(), is_flag);
  if (flag == extras.end()) {
    fail(ErrorKind::kUsage, "{}: unexpected argument \"{}\"", command, extras.front());
  }
  std::vector<std::string> known;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) known.push_back("--" + name);
    for (const std::string& name : option->get_snames()) known.push_back("-" + name);
  }
  const std::string word = flag->substr(0, flag->find('='));
  const std::string near = suggestion(word, known);
  fail(ErrorKind::kUsage, "{}: unknown option \"{}\"{}", command, word,
       near.empty() ? fmt::format("; see {} --help", app.get_name()) : near);
}

int parse_and_run(const Command& command, CLI::App& app, int argc, char** argv) {
  const std::function<int()> run = command.setup(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    const std::string text = app.help();
    std::fwrite(text.data(), 1, text.size(), stdout);
    return 0;
  } catch (const CLI::ParseError& error) {
    refuse_extras(app, command.name);
    std::string message = error.what();
    const size_t twice = message.find(": At Most 1 required but received");
    if (twice != std::string::npos) message = message.substr(0, twice) + ": given more than once";
    fail(ErrorKind::kUsage, "{}: {}", command.name, message);
  }
  return run();
}

int run_command(const Command& command, int argc, char** argv) {
  CLI::App app(command.summary, std::string("carousel ") + command.name);
  app.get_formatter()->column_width(36);
  try {
    return parse_and_run(command, app, argc, argv);
  } catch (const Error& error) {
    throw Error(error.kind(), with_typed_names(error.what(), app, {argv + 1, argv + argc}));
  }
}

int dispatch(int argc, char** argv) {
  if (argc < 2) fail(ErrorKind::kUsage, "no command given, expected one of {}; see carousel --help", command_names());
  const std::string word = argv[1];
  if (word == "--help" || word == "-h" || word == "help") {
    print_help();
    return 0;
  }
  if (word == "--version") {
    const std::string mpi = mpi::library();
    fmt::print("carousel {} ({})\n", CAROUSEL_VERSION, mpi.empty() ? "without MPI" : "with " + mpi);
    return 0;
  }
  std::vector<std::string> known{"--help", "--version"};
  for (const Command& command : kCommands) {
    if (word == command.name) return run_command(command, argc - 1, argv + 1);
    known.emplace_back(command.name);
  }
  fail(ErrorKind::kUsage, "unknown command \"{}\", expected one of {}{}", word, command_names(),
       suggestion(word, known));
}

int run_reporting(int argc, char** argv) {
  const JobScope scope;
  int status = 1;
  std::string message;
  try {
    return dispatch(argc, argv);
  } catch (const Error& error) {
    message = error.what();
    if (error.kind() == ErrorKind::kUsage) status = kUsageStatus;
    if (error.kind() == ErrorKind::kCancelled) status = kInterruptedStatus;
  } catch (const std::bad_alloc&) {
    message = "out of memory";
  } catch (const std::filesystem::filesystem_error& error) {
    message = fmt::format("{}: {}", error.path1().string(), error.code().message());
  } catch (const std::system_error& error) {
    message = error.what();
    if (error.code() == std::errc::interrupted && interrupted()) {
      message.clear();  // nobody reads it
      status = kInterruptedStatus;
    } else if (error.code() == std::errc::broken_pipe) {
      message.clear();
      status = kBrokenPipeStatus;
    }
  } catch (const std::exception& error) {
    message = error.what();
  }
  report_for_job(message, status);
  return status;
}

int flush_output(int status) {
  errno = 0;
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return status;
  const int reason = errno;
  if (reason == EINTR && interrupted()) _exit(kInterruptedStatus);  // exit() would wait again for the reader
  if (reason == EPIPE || status == kBrokenPipeStatus) return kBrokenPipeStatus;
  if (status != 0) return status;  // reported already
  note_error(fmt::format("stdout: cannot write: {}", reason != 0 ? std::strerror(reason) : "an earlier write failed"));
  return 1;
}

// A file opened while a standard stream is closed would get the stream's number, and the stream's output. So closed
// streams are replaced: reading and writing the replacements fails as on a closed stream, but notes are discarded.
void fill_closed_streams() {
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (fcntl(fd, F_GETFD) < 0) open("/dev/null", fd == STDOUT_FILENO ? O_RDONLY : O_WRONLY);
  }
}

int run_first_thread(int argc, char** argv) {
  try {
    return run_watched([argc, argv] { return flush_output(run_reporting(argc, argv)); });
  } catch (const std::exception& error) {
    note_error(error.what());
    return 1;
  }
}

}  // namespace
}  // namespace carousel::cli

int main(int argc, char** argv) {
  carousel::cli::fill_closed_streams();
  carousel::cli::report_signals();
  std::signal(SIGXFSZ, SIG_IGN);  // so is a limit on the size of files
  std::signal(SIGPIPE, SIG_IGN);  // a closed pipe is an error of a write, so that a state can still be saved
  return carousel::cli::run_first_thread(argc, argv);
}
