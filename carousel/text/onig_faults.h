// SPDX-License-Identifier: Apache-2.0
// Some patterns are read or run otherwise by libonig 6.9.8 (Debian 12) than by the version inside the reference
// library. This respells them so that both do the same.
#pragma once

#include <string>

namespace carousel::text {

/// `pattern` in a spelling free of the known faults. \R and (?(condition)...) are groups in which 6.9.8 takes the first
/// alternative for the only one when a repeat comes before: they get another group around them. \p{Word} is not \w
/// there below U+0100: it is written \w.
/// Where no spelling helps, *unsupported names the construct; else it is left alone.
std::string without_onig_faults(const std::string& pattern, const char** unsupported);

}  // namespace carousel::text
