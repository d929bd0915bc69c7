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

/// The shipped profile called `name`, or the one in the file of that name. Throws Error(kInput, kIo) where there is
/// neither, or where the file is no profile.
Numerics find_profile(const std::string& name);

/// Reads a profile. A key that it does not mention has the value of the shipped profile that it `extends`, or native's.
/// Throws Error(kInput) for an unknown key or value, naming the known ones.
Numerics parse_profile(const Json& json, const std::string& where);

/// Every key but `extends`, as parse_profile reads it back.
Json profile_json(const Numerics& numerics);

/// The kinds of parameter that a profile may draw in its own way.
std::vector<std::string> init_kinds();
/// The kind of the parameter with this canonical name; "" for none.
std::string init_kind(const std::string& parameter);

/// How `numerics` draws a parameter that its block would draw as `init`.
Init drawn_by(const Numerics& numerics, const std::string& parameter, const Init& init);

/// The same parameter in training, which keeps values at or above a profile's lower bound where they are used as they
/// are, with no softplus.
Init bounded_by(const Numerics& numerics, const std::string& parameter, const Init& init);

/// Returns the numerics that training runs under a profile: its draws and all it says of `ltc` are as asked. mLSTMs are
/// cut on the grid whatever `mlstm.pieces` says: these are the same sums in another order. Throws Error(kUsage) for a
/// profile that changes anything else, naming what: it is rounded, or has no gradient.
Numerics training_numerics(const Numerics& numerics);

}  // namespace carousel::model
