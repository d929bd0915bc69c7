# SPDX-License-Identifier: Apache-2.0
# Tests that nvcc reads the headers that device code will include: core/, the contracts of ops and of their kernels, and
# cpu/kernel.h. They are not registered where nvcc is not installed. fmt must stay out of these headers, as nvcc does
# not compile it in C++20: core/error.h, which has it, is for .cc files.
find_program(CAROUSEL_NVCC nvcc HINTS /usr/local/cuda/bin)
if(NOT CAROUSEL_NVCC)
  message(STATUS "Tests: nvcc was not found, so that headers are compiled for CUDA is not tested")
  return()
endif()

file(GLOB_RECURSE headers CONFIGURE_DEPENDS RELATIVE ${PROJECT_SOURCE_DIR}
     ${PROJECT_SOURCE_DIR}/carousel/core/*.h ${PROJECT_SOURCE_DIR}/carousel/ops/*.h)
list(REMOVE_ITEM headers carousel/core/error.h)
list(APPEND headers carousel/cpu/isa.h carousel/cpu/kernel.h)
set(forward "")
set(backward "")
foreach(header IN LISTS headers)
  file(STRINGS ${PROJECT_SOURCE_DIR}/${header} per_isa REGEX "^namespace .*CAROUSEL_ISA" LIMIT_COUNT 1)
  if(NOT per_isa AND NOT header MATCHES "_composite\\.h$")
    string(APPEND forward "#include \"${header}\"\n")
    string(PREPEND backward "#include \"${header}\"\n")
  endif()
endforeach()
set(no_fmt "#ifdef FMT_VERSION\n#error fmt is among the headers that nvcc reads\n#endif\n")

# In both orders, so that a header that leans on one before it is found.
set(folder ${CMAKE_CURRENT_BINARY_DIR}/nvcc)
file(CONFIGURE OUTPUT ${folder}/forward.cu CONTENT "${forward}${no_fmt}" @ONLY)
file(CONFIGURE OUTPUT ${folder}/backward.cu CONTENT "${backward}${no_fmt}" @ONLY)
file(CONFIGURE OUTPUT ${folder}/fmt.cu CONTENT "#include \"carousel/core/error.h\"\n${no_fmt}" @ONLY)

# 940: a switch whose default asserts ends a function without a return.
set(nvcc ${CAROUSEL_NVCC} -std=c++20 -I${PROJECT_SOURCE_DIR} --diag-suppress=940 -c -o /dev/null)
foreach(order forward backward)
  add_test(NAME Nvcc.ReadsTheHeaders_${order} COMMAND ${nvcc} ${folder}/${order}.cu)
endforeach()
add_test(NAME Nvcc.RefusesFmt COMMAND ${nvcc} ${folder}/fmt.cu)
set_tests_properties(Nvcc.RefusesFmt PROPERTIES WILL_FAIL TRUE)
