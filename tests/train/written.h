// SPDX-License-Identifier: Apache-2.0
// Files of data as tests write them, and what readers make of them.
#pragma once

#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "carousel/core/error.h"
#include "carousel/train/documents.h"
#include "tests/scratch.h"

namespace carousel::train {

inline std::string write(const std::string& path, std::string_view text) {
  std::ofstream file(path, std::ios::binary);
  file.write(text.data(), static_cast<std::streamsize>(text.size()));
  return path;
}

template <class T>
std::string raw(const std::vector<T>& values) {
  return std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
}

/// A .npy of integers or floats.
template <class T>
std::string npy(const std::string& descr, const std::string& shape, const std::vector<T>& values) {
  std::string header = "{'descr': '" + descr + "', 'fortran_order': False, 'shape': (" + shape + "), }";
  header.append(117 - header.size() % 118, ' ');
  header += '\n';
  std::string text("\x93NUMPY\x01\x00", 8);
  text += {static_cast<char>(header.size() & 0xFF), static_cast<char>(header.size() >> 8)};
  return text + header + raw(values);
}

/// 256 ids, one a byte, without start and end.
inline Vocabulary byte_vocabulary(int64_t size = 256) {
  Vocabulary out;
  out.size = size;
  out.tokenizer = text::Tokenizer::bytes();
  out.bytes = true;
  out.name = "bytes";
  out.hash = 256;
  return out;
}

/// Only ids can be read.
inline Vocabulary id_vocabulary(int64_t size) {
  Vocabulary out;
  out.size = size;
  out.missing = "no tokenizer";
  out.name = "none";
  return out;
}

/// The documents of a file, parts joined.
inline std::vector<Document> documents_of(const std::string& path, const Vocabulary& vocabulary,
                                          const ReadOptions& options = {}) {
  std::vector<Document> out;
  bool begun = false;
  read_documents(list_files(path).front(), *formats::MappedFile::open(path), options, vocabulary,
                 [&](const Document& part) {
                   if (begun) {
                     out.back().ids.insert(out.back().ids.end(), part.ids.begin(), part.ids.end());
                   } else {
                     out.push_back(part);
                   }
                   begun = part.goes_on;
                 });
  return out;
}

template <class F>
std::string error_of(const F& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

}  // namespace carousel::train
