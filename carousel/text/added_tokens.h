// SPDX-License-Identifier: Apache-2.0
// Added tokens: strings that are one token wherever they stand in the text, whatever the model would make of them.
// Matching follows the reference library: leftmost, longest first; then the flags of the match decide.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "carousel/text/bpe.h"

namespace carousel::text {

struct AddedToken {
  std::string content;
  int32_t id = 0;
  bool single_word = false;  // only where no word character is next to it
  bool lstrip = false;       // takes the white space before it
  bool rstrip = false;       // takes the white space after it
  bool normalized = false;   // is searched for in normalized text
  bool special = false;
};

/// Which added tokens a text is searched for. A token that is left out is read as text.
enum class Added : uint8_t {
  kAll,
  kNotSpecial,
  kNotControl,  // neither special tokens nor tokens spelled like control tokens, <...> or [...]
};

/// A matcher for one set of added tokens.
class AddedTokens {
 public:
  AddedTokens() : AddedTokens(std::vector<AddedToken>()) {}
  /// Contents must not be empty; of tokens with equal contents the first counts.
  explicit AddedTokens(std::vector<AddedToken> tokens);

  /// Walks `text` left to right: segment(begin, end, token), where token is nullptr for text between tokens. Tokens
  /// that `which` leaves out are matched all the same, and given as text.
  void split(std::string_view text, Added which,
             const std::function<void(size_t, size_t, const AddedToken*)>& segment) const;

 private:
  const AddedToken* longest_at(std::string_view text, size_t pos, size_t* size) const;

  std::vector<AddedToken> tokens_;
  PairMap edges_;                // (trie node, byte) -> node
  std::vector<int32_t> token_;   // [nodes] the token that ends at the node, or -1
  std::vector<uint32_t> first_;  // [256] the node of each first byte; 0: none
};

}  // namespace carousel::text
