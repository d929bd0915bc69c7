// SPDX-License-Identifier: Apache-2.0
// /v1/embeddings: the hidden state of a text's last token, final norm applied, scaled to length 1. That is what
// llama.cpp's server gives for `--pooling last`, and vLLM for a model that it serves as one of embeddings.
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <optional>
#include <utility>

#include "carousel/core/error.h"
#include "carousel/serve/served_model.h"
#include "carousel/serve/service.h"
#include "carousel/serve/submissions.h"

namespace carousel::serve {
namespace {

/// The row scaled to length 1. Zeros stay as they are.
std::vector<float> unit(std::vector<float> row) {
  double squares = 0;
  for (const float value : row) squares += static_cast<double>(value) * static_cast<double>(value);
  const double scale = squares > 0 ? 1 / std::sqrt(squares) : 0;
  for (float& value : row) value = static_cast<float>(static_cast<double>(value) * scale);
  return row;
}

/// The numbers' bytes, lowest first, in base64 (RFC 4648).
std::string base64(const std::vector<float>& row) {
  static_assert(std::endian::native == std::endian::little);
  constexpr char kDigits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::vector<uint8_t> bytes(row.size() * sizeof(float));
  if (!bytes.empty()) std::memcpy(bytes.data(), row.data(), bytes.size());
  std::string out;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    const size_t count = std::min<size_t>(3, bytes.size() - i);
    uint32_t group = 0;
    for (size_t k = 0; k < 3; ++k) group = group << 8 | (k < count ? bytes[i + k] : 0u);
    for (size_t k = 0; k < 4; ++k) out += k <= count ? kDigits[group >> (18 - 6 * k) & 63] : '=';
  }
  return out;
}

/// One request: its texts run in the engine, a few at a time.
class Embedding : public std::enable_shared_from_this<Embedding> {
 public:
  Embedding(ServedModel& served, std::shared_ptr<Call> call, const std::string& owner)
      : served_(served), call_(std::move(call)) {
    const Json body = read_body(*call_);
    Fields fields(body, "request");
    check_model(fields, served_.name);
    read_inputs(fields);
    base64_ = fields.choice("encoding_format", {"float", "base64"}, "float") == "base64";
    dimensions_ = fields.integer("dimensions", 1, int64_t{1} << 40, 0);
    fields.ignore({"user"});
    domain_ = domain_of(owner, read_salt(fields));
    reuse_ = read_reuse(fields);
    const std::string ignored = names_ignored(body, fields);
    if (!ignored.empty()) call_->header("x-carousel-ignored", ignored);
    submissions_ = Submissions(inputs_.size());
    rows_.resize(inputs_.size());
    numbers_.resize(inputs_.size());
  }

  void start() {
    call_->when_gone([self = shared_from_this()] { self->cancel(); });
    try {
      send();
    } catch (const HttpError&) {
      cancel();
      call_->when_gone({});
      throw;
    }
  }

 private:
  void read_inputs(Fields& fields) {
    const Json* const input = fields.raw("input");
    if (input != nullptr && (input->is_string() || is_ids(*input))) {
      add_input(*input);
    } else if (input != nullptr && input->is_array() && !input->empty() && input->size() <= kMaxPrompts) {
      for (const Json& one : *input) add_input(one);
    } else {
      fail(ErrorKind::kInput, "request: \"input\" is {}, expected text, token ids, or a list of 1 to {} of them",
           input == nullptr ? "missing" : brief(*input), kMaxPrompts);
    }
  }

  void add_input(const Json& input) {
    std::vector<int32_t> tokens;
    if (input.is_string()) {
      const std::string text = input;
      if (!text.empty()) tokens = served_.model.text().encode(text, true, true);
    } else if (is_ids(input)) {
      tokens = read_ids(input, "input", served_.model);
    } else {
      fail(ErrorKind::kInput, "request: \"input\" holds {}, expected text or token ids", brief(input));
    }
    if (tokens.empty()) fail(ErrorKind::kInput, "request: \"input\" holds an empty text, expected at least one token");
    tokens_ += static_cast<int64_t>(tokens.size());
    inputs_.push_back(std::move(tokens));
  }

  void send() {
    submissions_.send([this](size_t index) { submit(index); });
  }

  void submit(size_t index) {
    generate::Request request;
    request.prompt = inputs_[index];
    request.max_tokens = 0;
    request.keep_hidden = true;
    const auto hear = [self = shared_from_this(), index](Event& event) { self->hear(index, event); };
    numbers_[index] = served_.engine.submit(std::move(request), hear, domain_, reuse_);
  }

  void hear(size_t index, Event& event) {
    if (over_ || !event.end) return;
    if (event.end->reason != generate::StopReason::kLength) {
      cancel();
      return call_->fail(failure_of(event));
    }
    const auto dimensions = static_cast<int64_t>(event.end->hidden.size());
    if (dimensions_ > 0 && dimensions_ != dimensions) {
      cancel();
      return call_->fail({400,
                          fmt::format("request: \"dimensions\" is {}, expected {}", dimensions_, dimensions),
                          "dimensions",
                          "",
                          {}});
    }
    rows_[index] = unit(std::move(event.end->hidden));
    cached_ += event.cached;
    if (submissions_.end() == rows_.size()) return finish();
    try {
      send();
    } catch (const HttpError& error) {
      cancel();
      call_->fail(error);
    }
  }

  void finish() {
    over_ = true;
    Json data = Json::array();
    for (size_t i = 0; i < rows_.size(); ++i) {
      data.push_back(
          {{"object", "embedding"}, {"index", i}, {"embedding", base64_ ? Json(base64(rows_[i])) : Json(rows_[i])}});
    }
    call_->answer(Json{{"object", "list"},
                       {"data", std::move(data)},
                       {"model", served_.name},
                       {"usage",
                        {{"prompt_tokens", tokens_},
                         {"total_tokens", tokens_},
                         {"prompt_tokens_details", {{"cached_tokens", cached_}}}}}});
  }

  void cancel() {
    over_ = true;
    for (const uint64_t number : numbers_) {
      if (number > 0) served_.engine.cancel(number);
    }
  }

  ServedModel& served_;
  const std::shared_ptr<Call> call_;
  std::string domain_;
  std::optional<Reuse> reuse_;
  bool base64_ = false;
  int64_t dimensions_ = 0;                    // asked for; 0: any
  std::vector<std::vector<int32_t>> inputs_;  // their tokens
  std::vector<std::vector<float>> rows_;      // [inputs][D] the answers
  std::vector<uint64_t> numbers_;             // [inputs] in the engine; 0: not sent
  Submissions submissions_;                   // of the inputs
  int64_t tokens_ = 0, cached_ = 0;           // of the inputs
  bool over_ = false;                         // answered, failed or cancelled
};

}  // namespace

void Service::embeddings(const std::shared_ptr<Call>& call, const std::string&) {
  check_open();
  std::make_shared<Embedding>(served_, call, owner_of(*call))->start();
}

}  // namespace carousel::serve
