// SPDX-License-Identifier: Apache-2.0
// UTF-8 for Oniguruma, with the character properties of Unicode 16 whatever the age of the installed libonig. The
// reference library carries an Oniguruma of its own, and patterns must have the same meaning here as there.
#pragma once

#include <string>
#include <string_view>

struct OnigEncodingTypeST;  // declared in oniguruma.h

namespace carousel::text {

/// The encoding to compile patterns with. The first call initialises Oniguruma; any thread may make it.
OnigEncodingTypeST* unicode_encoding();

/// A property's name as Oniguruma compares it: in lower case, without spaces, '-' and '_'.
std::string plain_property_name(std::string_view name);

/// The first character of `text` (valid UTF-8) that libonig takes for unassigned, though Unicode 16 has it; 0: none.
/// Its tables for text segments (\X, \y) are its own.
char32_t first_younger_than_libonig(std::string_view text);

}  // namespace carousel::text
