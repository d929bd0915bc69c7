# Finds nvcc where kernels for GPUs are wanted, and says for which GPUs they are built. Sets CAROUSEL_CUDA_BUILT.
#
# The runtime is linked in (1.3 MB), and looks for the driver when a GPU is asked for; cuBLASLt (540 MB, 300 MB packed) is
# loaded by name when a product needs it. So one binary also runs where neither is installed, and the packed tests stay small.
set(CAROUSEL_CUDA_BUILT OFF)
set_property(CACHE CAROUSEL_CUDA PROPERTY STRINGS AUTO ON OFF)
set(wanted ${CAROUSEL_CUDA})
if(wanted STREQUAL "AUTO" AND (CMAKE_CROSSCOMPILING OR CAROUSEL_SANITIZE OR CAROUSEL_FUZZ))
  set(wanted OFF)  # nvcc compiles host code with another compiler and without these flags
endif()
if(wanted STREQUAL "AUTO")
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    set(wanted ON)
  else()
    set(wanted OFF)
    message(STATUS "CUDA: nvcc was not found, so no kernels for GPUs are built")
  endif()
endif()
if(NOT wanted)
  return()
endif()

# sm_80 serves Ampere and Ada, sm_90a Hopper with its own instructions, and later GPUs compile the PTX when they start.
if(CAROUSEL_CUDA_FAST)
  set(CMAKE_CUDA_ARCHITECTURES 90a-real)
else()
  set(CMAKE_CUDA_ARCHITECTURES 80-real 90a-real 90-virtual)
endif()
if(CCACHE)
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${CCACHE})
endif()
enable_language(CUDA)
find_package(CUDAToolkit REQUIRED)
set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")  # CMake 3.25 does not know it
set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
# 940: a switch whose default asserts ends a function without a return.
set(CMAKE_CUDA_FLAGS "${CMAKE_CUDA_FLAGS} --diag-suppress=940 -Xcompiler=-Wall,-Wextra,-Wno-psabi")
if(CAROUSEL_WERROR)
  set(CMAKE_CUDA_FLAGS "${CMAKE_CUDA_FLAGS} -Werror=all-warnings -Xcompiler=-Werror")
endif()
set(CMAKE_CUDA_FLAGS_RELEASE "-O3 -DNDEBUG")
set(CAROUSEL_CUDA_BUILT ON)
