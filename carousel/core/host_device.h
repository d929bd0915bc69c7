// SPDX-License-Identifier: Apache-2.0
// Functions that kernels of CPUs and of GPUs share, so that a formula stands once. They are inlined everywhere: a
// kernel of a CPU is compiled once per instruction set, and no copy of such a function may be seen by the others.
//
// A formula over vectors is a template of Math: a class that names the type and its functions, cpu/vec_math.h for a
// vector of a CPU, cuda/float_math.cuh for one float of a GPU.
#pragma once

#if defined(__CUDACC__)
#define HOST_DEVICE __host__ __device__ __forceinline__
#else
#define HOST_DEVICE __attribute__((always_inline)) inline
#endif
