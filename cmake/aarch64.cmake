# Cross-compiles for aarch64 Linux with Debian's g++-aarch64-linux-gnu and runs tests under qemu-user. The libraries come
# from CAROUSEL_AARCH64_LIBS, a folder of unpacked packages that `tools/install_deps.sh --aarch64` makes.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_LIBRARY_ARCHITECTURE aarch64-linux-gnu)

set(CAROUSEL_AARCH64_LIBS "${CMAKE_CURRENT_LIST_DIR}/../build/aarch64-libs" CACHE PATH "Unpacked arm64 packages")
set(CAROUSEL_AARCH64_CPU "max" CACHE STRING "The CPU that qemu plays, e.g. max, cortex-a53 (no dot products)")
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES CAROUSEL_AARCH64_LIBS CAROUSEL_AARCH64_CPU)
set(CMAKE_FIND_ROOT_PATH "${CAROUSEL_AARCH64_LIBS}" /usr/aarch64-linux-gnu)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)
set(ENV{PKG_CONFIG_DIR} "")
set(ENV{PKG_CONFIG_SYSROOT_DIR} "${CAROUSEL_AARCH64_LIBS}")
set(ENV{PKG_CONFIG_LIBDIR}
    "${CAROUSEL_AARCH64_LIBS}/usr/lib/aarch64-linux-gnu/pkgconfig:${CAROUSEL_AARCH64_LIBS}/usr/share/pkgconfig")
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64 -cpu ${CAROUSEL_AARCH64_CPU} -L /usr/aarch64-linux-gnu)
