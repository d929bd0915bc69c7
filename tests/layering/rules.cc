// SPDX-License-Identifier: Apache-2.0
// The list of rules, and the breaches that stand. An exception that is no longer needed fails a test.
#include "tests/layering/rules.h"

namespace carousel::layering {

const std::vector<Rule>& rules() {
  static const std::vector<Rule> kRules = {
      {"IncludesStayInTheTable", includes_stay_in_the_table, false},
      {"KernelHeadersStayWithKernels", kernel_headers_stay_with_kernels, false},
      {"FamiliesOfOpsFormNoCircle", families_of_ops_form_no_circle, false},
      {"IncludesAreByFullPath", includes_are_by_full_path, false},
      {"OnlyCudaSeesCudaHeaders", only_cuda_sees_cuda_headers, false},
      {"QuestionsOfDeviceHaveTheirPlaces", questions_of_device_have_their_places, false},
      {"OnlyMpiSeesMpiHeaders", only_mpi_sees_mpi_headers, false},
      {"OnlyTheCommandLineSeesOptions", only_the_command_line_sees_options, false},
      {"OnlyTheCommandLineTalksToTheProcess", only_the_command_line_talks_to_the_process, false},
      {"NothingBanned", nothing_banned, false},
      {"NoUsingNamespace", no_using_namespace, true},
      {"EveryFileSaysItsLicence", every_file_says_its_licence, true},
      {"HeadersGuardAndExplainThemselves", headers_guard_and_explain_themselves, false},
      {"SourcesOpenWithWhatTheyAre", sources_open_with_what_they_are, false},
      {"TodosCarryAnIssueNumber", todos_carry_an_issue_number, true},
      {"FilesFitASitting", files_fit_a_sitting, false},
      {"FilesHaveTellingNames", files_have_telling_names, false},
      {"TheNamespaceIsTheFolder", the_namespace_is_the_folder, false},
      {"SpellingIsTheFamilies", spelling_is_the_families, false},
      {"FilesCanBeParsed", files_can_be_parsed, false},
      {"FunctionsFitAScreen", functions_fit_a_screen, false},
      {"ParametersAreSixAtMost", parameters_are_six_at_most, false},
  };
  return kRules;
}

const std::vector<Exception>& exceptions() {
  static const std::vector<Exception> kExceptions = {
      {"OnlyTheCommandLineTalksToTheProcess", "carousel/core/error.cc", "abort",
       "a broken invariant ends the process here, and nowhere else"},
  };
  return kExceptions;
}

}  // namespace carousel::layering
