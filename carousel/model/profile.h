// SPDX-License-Identifier: Apache-2.0
// Numeric profiles: JSON that names how numbers are handled, so that a model gives the results of a given
// implementation. docs/numerics.md lists the keys.
#pragma once

#include <string>
#include <vector>

#include "carousel/core/json.h"
#include "carousel/ops/numerics.h"

namespace carousel::model {

/// Names of the profiles that come with the program, "native" first.
std::vector<std::string> profile_names();

/// The shipped profile called `name`, or the one in the file of that name. Throws Error(kInput, kIo): neither, or a
/// file that is no profile.
Numerics find_profile(const std::string& name);

/// Reads a profile. What it does not mention is that of the shipped profile it `extends`, or native. Throws
/// Error(kInput) for a key or value that is not known, naming those that are.
Numerics parse_profile(const Json& json, const std::string& where);

/// Every key but `extends`, as parse_profile reads it back.
Json profile_json(const Numerics& numerics);

/// Kinds of parameter a profile may draw in its own way, and the one a parameter's canonical name is of ("" for none).
std::vector<std::string> init_kinds();
std::string init_kind(const std::string& parameter);

/// How `numerics` draws a parameter that its block would draw as `init`.
Init drawn_by(const Numerics& numerics, const std::string& parameter, const Init& init);

}  // namespace carousel::model
