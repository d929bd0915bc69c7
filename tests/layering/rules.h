// SPDX-License-Identifier: Apache-2.0
// The rules of the source tree. Each is a function of sources, so that rules_test.cc can plant a breach of each one;
// layering_test.cc runs them over the repository. docs/design.md says why they are as they are.
#pragma once

#include <string>
#include <vector>

#include "tests/layering/source.h"

namespace carousel::layering {

struct Breach {
  std::string path;
  size_t line;          // counted from 1
  std::string subject;  // what exceptions.cc names: the included file, the function, the word
  std::string message;
};
using Breaches = std::vector<Breach>;
using Sources = std::vector<Source>;

struct Rule {
  std::string name;
  Breaches (*check)(const Sources& sources);
  bool tests;  // holds for the tests too
};
const std::vector<Rule>& rules();

/// A breach that stands, and why.
struct Exception {
  std::string rule, path, subject, reason;
};
const std::vector<Exception>& exceptions();

/// Code that is compiled for instruction sets or devices, and what only it includes.
bool is_kernel(const Source& source);

// include_rules.cc
/// Every folder has a row in the table of floors, and includes what the row lists.
Breaches includes_stay_in_the_table(const Sources& sources);
/// x_cpu.h is for kernels, for the files of its own family, and for the reader of the arguments of every kernel.
Breaches kernel_headers_stay_with_kernels(const Sources& sources);
/// No circle among ops/<family>/. ops/weight includes no other family, and files on top of ops/ only ops/weight.
Breaches families_of_ops_form_no_circle(const Sources& sources);
Breaches includes_are_by_full_path(const Sources& sources);
Breaches only_cuda_sees_cuda_headers(const Sources& sources);
Breaches only_mpi_sees_mpi_headers(const Sources& sources);
Breaches only_the_command_line_sees_options(const Sources& sources);
/// The rows of the table that contradict its floors: an include that does not go down.
std::vector<std::string> rows_that_do_not_go_down();

// text_rules.cc
Breaches only_the_command_line_talks_to_the_process(const Sources& sources);
Breaches nothing_banned(const Sources& sources);
/// Which device runs is asked in ops/kernel.h, where the batch is laid out (model/pass, model/replay) and in cuda/
/// alone.
Breaches questions_of_device_have_their_places(const Sources& sources);
Breaches no_using_namespace(const Sources& sources);
Breaches every_file_says_its_licence(const Sources& sources);
Breaches headers_guard_and_explain_themselves(const Sources& sources);
/// A .cc file of more than 40 lines opens with what it is.
Breaches sources_open_with_what_they_are(const Sources& sources);
Breaches todos_carry_an_issue_number(const Sources& sources);
/// 400 lines, 600 of kernels, unless the opening says "Longer than 400 lines: " and why; 140 columns.
Breaches files_fit_a_sitting(const Sources& sources);
Breaches files_have_telling_names(const Sources& sources);
Breaches the_namespace_is_the_folder(const Sources& sources);
/// Names of foreign tensors, and choices by model_type or architecture, stand in model/families alone; what all GGUF
/// files share in model/gguf too, names of any kind in formats.
Breaches spelling_is_the_families(const Sources& sources);

// function_rules.cc
/// The braces of every file match, so that the next two rules see its functions.
Breaches files_can_be_parsed(const Sources& sources);
/// 60 lines, 120 of kernels.
Breaches functions_fit_a_screen(const Sources& sources);
/// More than 6 parameters are one struct, save in kernels.
Breaches parameters_are_six_at_most(const Sources& sources);

}  // namespace carousel::layering
