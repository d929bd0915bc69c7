// SPDX-License-Identifier: Apache-2.0
// carousel chat: a conversation line by line. Its memory is a value, so a step back, a branch and a file are copies of
// it. Answers go to standard output, all else to standard error; without a terminal it reads its lines as a script.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <new>
#include <optional>
#include <string>

#include "carousel/cli/command.h"
#include "carousel/cli/generation.h"
#include "carousel/cli/line_reader.h"
#include "carousel/cli/output_path.h"
#include "carousel/cli/progress.h"
#include "carousel/cli/prompt.h"
#include "carousel/cli/signals.h"
#include "carousel/core/error.h"
#include "carousel/generate/conversation.h"
#include "carousel/model/chat_turns.h"
#include "carousel/model/cost.h"
#include "carousel/model/saved_state.h"
#include "carousel/text/unicode.h"

namespace carousel::cli {
namespace {

constexpr const char* kFirstBranch = "main";
constexpr size_t kMaxNameBytes = 64;
constexpr int kPresses = 2;  // so many presses of Ctrl-C in a row quit

struct ChatOptions : GenerationOptions {
  std::string system;
  bool plain = false;
};

model::ChatTurns turns_of(const ChatOptions& options, const model::Model& model) {
  if (options.plain) return {};
  static const model::ChatWords kWords{"what you said",
                                       "--system",
                                       "with --system it is, ",
                                       "without --system it is, ",
                                       "--plain does without turns",
                                       "/undo goes back, --plain does without turns"};
  return model::find_turns(options.model, model, !options.system.empty(), !options.load_state.empty(), kWords);
}

std::string trimmed(const std::string& text) {
  const size_t begin = text.find_first_not_of(" \t");
  if (begin == std::string::npos) return "";
  return text.substr(begin, text.find_last_not_of(" \t") + 1 - begin);
}

/// Expands "~/story.state" as a shell would.
std::string expand_home(const std::string& path) {
  const char* home = std::getenv("HOME");
  return path.starts_with("~/") && home != nullptr ? home + path.substr(1) : path;
}

class Chat {
 public:
  Chat(const ChatOptions& options, const model::Model& model, const Stream& stream);
  int run();

 private:
  struct Command;
  static const Command kCommands[];

  bool next_line(std::string& line);
  void handle(const std::string& line);
  void obey(const std::string& line);
  void say(const std::string& text);
  std::vector<int32_t> tokens_of(const std::string& text) const;
  std::string place() const;
  std::string branch_names() const;

  void save(const std::string& path);
  void load(const std::string& path);
  void undo(const std::string&);
  void reset(const std::string&);
  void fork(const std::string& name);
  void change_branch(const std::string& name);
  void help(const std::string&);
  void quit(const std::string&) { quit_ = true; }

  const ChatOptions& options_;
  const model::Model& model_;
  const Stream& stream_;
  model::ChatTurns form_;
  LineReader lines_;
  Output output_;
  std::map<std::string, generate::Conversation> branches_{{kFirstBranch, generate::Conversation()}};
  std::string branch_ = kFirstBranch;
  int presses_ = 0;  // presses of Ctrl-C since the last line
  bool quit_ = false;
  bool failed_ = false;  // standard output failed
  bool wrong_ = false;   // some command or text failed
};

struct Chat::Command {
  const char* name;
  const char* argument;  // "": none; in brackets: optional
  const char* summary;
  void (Chat::*run)(const std::string& argument);
};

const Chat::Command Chat::kCommands[] = {
    {"/save", "FILE", "the conversation so far in a file, as generate --save-state writes it", &Chat::save},
    {"/load", "FILE", "go on from such a file", &Chat::load},
    {"/undo", "", "back to before the last turn, /load or /reset", &Chat::undo},
    {"/reset", "", "start anew", &Chat::reset},
    {"/fork", "[NAME]", "go on in a branch; this one stays as it is", &Chat::fork},
    {"/switch", "[NAME]", "go on in another branch; without a name: list them", &Chat::change_branch},
    {"/help", "", "this", &Chat::help},
    {"/quit", "", "the end; so do Ctrl-D and Ctrl-C twice", &Chat::quit},
};

Chat::Chat(const ChatOptions& options, const model::Model& model, const Stream& stream)
    : options_(options), model_(model), stream_(stream), form_(turns_of(options, model)) {
  if (!options.system.empty() && !form_.turns) {
    fail(ErrorKind::kInput, "--system: the text goes on plainly, without turns, expected a model that knows ChatML");
  }
  check_prompt({options.system, "--system"}, model.text());
  if (!options.load_state.empty()) branches_.at(branch_).advance(model::load_state(options.load_state, model));
}

int Chat::run() {
  if (lines_.terminal()) {
    note(form_.turns ? "A conversation in turns (ChatML). /help lists the commands, Ctrl-C stops an answer."
                     : "The text goes on from what you type; an empty line lets it go on alone. /help lists the "
                       "commands, Ctrl-C stops it.");
    if (!options_.load_state.empty()) note(place());
  }
  catch_interrupts(kPresses);
  const LastWillScope scope;
  std::string line;
  while (!quit_ && !failed_ && presses_ < kPresses && !output_.closed() && next_line(line)) {
    if (presses_ == 0) {
      set_last_will([this, now = branches_.at(branch_).now()] {
        if (!options_.save_state.empty()) model::save_state(options_.save_state, now, model_);
      });
      handle(line);
    }
    presses_ += take_interrupts();
  }
  end_by_itself();
  if (!options_.save_state.empty()) {
    model::save_state(options_.save_state, branches_.at(branch_).now(), model_);
  }
  if (output_.closed()) return kBrokenPipeStatus;
  if (failed_) return 1;
  if (presses_ >= kPresses) return kInterruptedStatus;
  return wrong_ && !lines_.terminal() ? 1 : 0;  // nobody reads the errors of a script
}

/// Reads the next line to handle; lines that end in a backslash are joined. If Ctrl-C came instead, counts presses_.
bool Chat::next_line(std::string& line) {
  line.clear();
  std::string prompt = branches_.size() > 1 ? branch_ + "> " : "> ";
  for (std::string piece;; prompt = "... ") {
    LineReader::Got got = LineReader::Got::kLine;
    try {
      got = lines_.read(prompt, piece);
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kInput) throw;
      note_error(error.what());
      wrong_ = true;
      line.clear();
      continue;
    }
    if (got == LineReader::Got::kEnd) return !line.empty();
    if (got == LineReader::Got::kSignal) {
      presses_ += take_interrupts();
      if (presses_ == 0) continue;
      if (presses_ == 1) note("Ctrl-C again or Ctrl-D quits");
      return true;
    }
    presses_ = 0;
    const bool goes_on = piece.ends_with('\\');
    if (goes_on) piece.back() = '\n';
    line += piece;
    if (!goes_on) return true;
  }
}

/// Handles a line. An error in it is reported and changes nothing; only a failed output or device ends the chat.
void Chat::handle(const std::string& line) {
  std::string wrong;
  try {
    if (line.starts_with('/') && !line.starts_with("//")) return obey(line);
    return say(line.starts_with("//") ? line.substr(1) : line);
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::kLost) throw;
    wrong = error.what();
  } catch (const std::bad_alloc&) {
    wrong = "out of memory";
  }
  failed_ = output_.failed();
  if (!failed_) output_.end_line();
  note_error(wrong);
  wrong_ = true;
}

void Chat::obey(const std::string& line) {
  const size_t space = line.find_first_of(" \t\n");
  const std::string name = line.substr(0, space);
  const std::string argument = space == std::string::npos ? "" : trimmed(line.substr(space));
  const auto known = std::find_if(std::begin(kCommands), std::end(kCommands),
                                  [&](const Command& command) { return name == command.name; });
  if (known == std::end(kCommands)) {
    fail(ErrorKind::kInput, "{}: no such command, see /help; // begins a text with a slash", name);
  }
  const std::string takes = known->argument;
  if (takes.empty() && !argument.empty()) fail(ErrorKind::kInput, "{}: got \"{}\", expected nothing", name, argument);
  if (!takes.empty() && takes[0] != '[' && argument.empty()) fail(ErrorKind::kInput, "{}: expected a {}", name, takes);
  (this->*known->run)(argument);
}

std::vector<int32_t> Chat::tokens_of(const std::string& text) const {
  const model::SavedState& now = branches_.at(branch_).now();
  if (form_.turns) return form_.ask(now.tokens, options_.system, text);
  const text::Tokenizer& tokenizer = model_.text();
  if (now.state.pos() > 0) return tokenizer.encode_inner(text);
  std::vector<int32_t> tokens = tokenizer.encode(text, true, false);
  if (tokens.empty()) tokens.push_back(start_token(model_));
  return tokens;
}

void Chat::say(const std::string& text) {
  if (form_.turns && trimmed(text).empty()) return;
  check_prompt({text, "what you said"}, model_.text());
  const model::SavedState& now = branches_.at(branch_).now();
  generate::Request request = options_.request();
  request.prompt = tokens_of(text);
  if (request.prompt.empty() && !now.logits.defined()) {
    fail(ErrorKind::kInput, "the state ends in the middle of its prompt, expected the rest of it");
  }
  const auto tokens = static_cast<int64_t>(request.prompt.size());
  model::check_sequences(*model_.lm, stream_, "what you said", now.state, tokens);
  request.state = now.state;
  request.history = now.tokens;
  request.logits = now.logits;
  request.keep_state = true;
  request.on_token = [this](const generate::Emitted& token) { return output_.write(token.text); };
  generate::Finished end;
  request.on_finish = [this, &end](generate::Finished& finished) {
    output_.write(finished.text);
    end = std::move(finished);
  };
  generate::generate(model_, stream_, std::move(request), interrupted);
  output_.end_line();
  if (end.reason == generate::StopReason::kFailed) fail(ErrorKind::kInput, "{}", end.error);
  if (!end.logits.defined()) return note("stopped before the answer began; this turn is not kept");
  if (end.reason == generate::StopReason::kEndToken && end.tokens == 1) {
    note(form_.turns ? "the model answers nothing" : "the model ends the text here");
  }
  branches_.at(branch_).advance({std::move(end.state), std::move(end.history), std::move(end.logits)});
  if (end.reason == generate::StopReason::kCancelled) note("stopped; what was said is kept, /undo takes it back");
}

/// "on main, 34 tokens: ...played outside in the sun."
std::string Chat::place() const {
  constexpr size_t kTokens = 24;
  constexpr size_t kBytes = 60;
  const std::vector<int32_t>& tokens = branches_.at(branch_).now().tokens;
  const size_t count = std::min(kTokens, tokens.size());
  std::string tail = model_.text().decode(std::span(tokens).last(count), true);
  for (char& c : tail) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  }
  const bool cut = tail.size() > kBytes || count < tokens.size();
  if (tail.size() > kBytes) tail.erase(0, tail.size() - kBytes);
  while (!tail.empty() && (static_cast<unsigned char>(tail[0]) & 0xc0) == 0x80) tail.erase(0, 1);
  return fmt::format("on {}, {} tokens{}{}", branch_, tokens.size(), tail.empty() ? "" : cut ? ": ..." : ": ", tail);
}

std::string Chat::branch_names() const {
  std::string names;
  for (const auto& [name, conversation] : branches_) names += (names.empty() ? "" : ", ") + name;
  return names;
}

void Chat::save(const std::string& argument) {
  const std::string path = expand_home(argument);
  check_save_path(path);
  model::save_state(path, branches_.at(branch_).now(), model_);
  note("saved " + path);
}

void Chat::load(const std::string& argument) {
  branches_.at(branch_).advance(model::load_state(expand_home(argument), model_));
  note(place());
}

void Chat::undo(const std::string&) {
  generate::Conversation& conversation = branches_.at(branch_);
  if (!conversation.undo()) {
    fail(ErrorKind::kInput, "/undo: nothing to go back to{}",
         conversation.forgot() ? ": of older turns the memory was let go" : "");
  }
  note(place());
}

void Chat::reset(const std::string&) {
  branches_.at(branch_).advance({});
  note(place());
}

void Chat::fork(const std::string& argument) {
  std::string name = argument;
  for (int number = 1; name.empty() || (argument.empty() && branches_.contains(name)); ++number) {
    name = fmt::format("fork{}", number);
  }
  const auto odd = [](char c) { return static_cast<unsigned char>(c) <= 0x20 || c == 0x7f; };
  if (text::valid_prefix(name) != name.size()) {
    fail(ErrorKind::kInput, "/fork: the name is not UTF-8 from byte {} on, expected a word of at most {} bytes",
         text::valid_prefix(name), kMaxNameBytes);
  }
  if (name.size() > kMaxNameBytes || std::any_of(name.begin(), name.end(), odd)) {
    fail(ErrorKind::kInput, "/fork: got \"{}\", expected a word of at most {} bytes", name, kMaxNameBytes);
  }
  if (branches_.contains(name)) fail(ErrorKind::kInput, "/fork: there is a branch \"{}\", expected a new name", name);
  branches_.emplace(name, branches_.at(branch_));
  branch_ = name;
  note(place());
}

void Chat::change_branch(const std::string& name) {
  if (name.empty()) return note(fmt::format("{}; branches: {}", place(), branch_names()));
  if (!branches_.contains(name)) {
    fail(ErrorKind::kInput, "/switch: no branch \"{}\", expected one of {}", name, branch_names());
  }
  branch_ = name;
  note(place());
}

void Chat::help(const std::string&) {
  std::string text = "  A line is said, or is one of these commands:\n";
  for (const Command& command : kCommands) {
    text += fmt::format("  {:<16} {}\n", std::string(command.name) + " " + command.argument, command.summary);
  }
  note(text + "  A backslash at the end of a line goes on in the next; // begins a text with a slash.");
}

int run_chat(const ChatOptions& options, Machine& machine) {
  if (!options.system.empty() && options.plain) fail(ErrorKind::kUsage, "chat: got both --system and --plain");
  if (!options.system.empty() && !options.load_state.empty()) {
    fail(ErrorKind::kUsage,
         "chat: got both --system and --load-state, expected at most one: a state has its beginning");
  }
  if (!options.save_state.empty()) check_save_path(options.save_state);
  const Stream stream = machine.stream();
  const model::Model model = options.load(stream);
  return Chat(options, model, stream).run();
}

}  // namespace

std::function<int()> setup_chat(CLI::App& app) {
  const auto options = std::make_shared<ChatOptions>();
  options->add_model(app);
  app.add_option("--system", options->system,
                 std::string("What the model is told before the first turn") + kTakesEscapes);
  app.add_flag("--plain", options->plain, "No turns: the text goes on from what is typed");
  options->add_sampling(app, "--system");
  options->add_states(app);
  options->weights.add_options(app);
  options->weights.add_mmap(app);
  options->machine.add_compute(app);
  options->machine.add_options(app);
  return [options] {
    options->system = options->escapes.read(options->system);
    return run_chat(*options, options->machine);
  };
}

}  // namespace carousel::cli
