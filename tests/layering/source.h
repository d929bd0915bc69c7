// SPDX-License-Identifier: Apache-2.0
// A source file as the rules of the tree read it: its lines, its code without comments and literals, its tokens and its
// functions. Rules take text that may come from anywhere, so that tests can plant breaches.
#pragma once

#include <string>
#include <vector>

namespace carousel::layering {

struct Source {
  std::string path;                // "carousel/ops/linear/linear.cc"
  std::string folder;              // "ops"; "tests" for a file of the tests
  std::vector<std::string> lines;  // as they are
  std::vector<std::string> code;   // each line without its comments and the contents of its literals
  std::vector<std::string> text;   // what the string literals of each line say, a blank after each
};

Source read_source(const std::string& path, const std::string& text);

/// All sources of the library, and of the tests.
const std::vector<Source>& library();
const std::vector<Source>& tests();

struct Include {
  size_t line;       // counted from 1
  std::string path;  // "carousel/core/tensor.h"
  bool quoted;       // rather than in angle brackets
};
std::vector<Include> includes_of(const Source& source);

struct Token {
  std::string text;
  size_t line;  // counted from 1
};
enum class Branches { kAll, kFirst };  // of #if, #elif and #else
std::vector<Token> tokens_of(const Source& source, Branches branches);

bool starts_with(const std::string& text, const std::string& start);
bool ends_with(const std::string& text, const std::string& end);
/// The file's name without its folders.
std::string name_of(const std::string& path);
/// "ops/linear" for a file in carousel/ops/linear/; empty for a file that is in no family of ops.
std::string family_of(const std::string& path);

}  // namespace carousel::layering
