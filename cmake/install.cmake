# What is installed: the binary, both libraries, their headers, and what CMake and pkg-config need to find them.
# Components: runtime (the binary), static, shared, development (all the rest).
include(CMakePackageConfigHelpers)

set(CAROUSEL_PACKAGE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/carousel)

# Headers of what is compiled once per instruction set are of no use outside, nor are those of the binary and its tools.
file(GLOB_RECURSE CAROUSEL_HEADERS RELATIVE ${PROJECT_SOURCE_DIR} CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/carousel/*.h)
foreach(header IN LISTS CAROUSEL_HEADERS)
  file(STRINGS ${PROJECT_SOURCE_DIR}/${header} per_isa REGEX "^namespace .*CAROUSEL_ISA" LIMIT_COUNT 1)
  if(NOT per_isa AND NOT header MATCHES "^carousel/(cli|verify|bench|mpi|serve)/|_composite\\.h$")
    get_filename_component(folder ${header} DIRECTORY)
    install(FILES ${header} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/${folder} COMPONENT development)
  endif()
endforeach()

if(TARGET carousel_cli)
  install(TARGETS carousel_cli RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT runtime)
endif()

foreach(kind static shared)
  string(REPLACE static carousel target ${kind})
  string(REPLACE shared carousel_shared target ${target})
  if(TARGET ${target})
    install(TARGETS ${target} EXPORT carousel_${kind} DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT ${kind})
    install(EXPORT carousel_${kind} NAMESPACE carousel:: FILE carousel-${kind}.cmake
            DESTINATION ${CAROUSEL_PACKAGE_DIR} COMPONENT ${kind})
  endif()
endforeach()

string(REPLACE ";" " " CAROUSEL_REQUIRES "${CAROUSEL_PACKAGES}")
configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/carouselConfig.cmake.in
                              ${PROJECT_BINARY_DIR}/carouselConfig.cmake
                              INSTALL_DESTINATION ${CAROUSEL_PACKAGE_DIR})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/carouselConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/carouselConfig.cmake ${PROJECT_BINARY_DIR}/carouselConfigVersion.cmake
        DESTINATION ${CAROUSEL_PACKAGE_DIR} COMPONENT development)

# The folders are named relative to the file's own, so that --prefix and DESTDIR may still choose another place.
set(CAROUSEL_PC_PREFIX "${CMAKE_INSTALL_PREFIX}")
set(CAROUSEL_PC_LIBDIR "${CMAKE_INSTALL_FULL_LIBDIR}")
set(CAROUSEL_PC_INCLUDEDIR "${CMAKE_INSTALL_FULL_INCLUDEDIR}")
if(NOT IS_ABSOLUTE "${CMAKE_INSTALL_LIBDIR}" AND NOT IS_ABSOLUTE "${CMAKE_INSTALL_INCLUDEDIR}")
  file(RELATIVE_PATH up /prefix/${CMAKE_INSTALL_LIBDIR}/pkgconfig /prefix)
  string(REGEX REPLACE "/$" "" up "${up}")
  set(CAROUSEL_PC_PREFIX "\${pcfiledir}/${up}")
  set(CAROUSEL_PC_LIBDIR "\${prefix}/${CMAKE_INSTALL_LIBDIR}")
  set(CAROUSEL_PC_INCLUDEDIR "\${prefix}/${CMAKE_INSTALL_INCLUDEDIR}")
endif()
# A static library alone needs all of its dependencies in every link.
set(CAROUSEL_PC_REQUIRES "Requires: fmt nlohmann_json\nRequires.private: ${CAROUSEL_REQUIRES}\nLibs.private: -pthread")
set(CAROUSEL_PC_CFLAGS "")
if(CAROUSEL_CUDA_BUILT)
  set(CAROUSEL_PC_CFLAGS " -DCAROUSEL_CUDA")
  set(CAROUSEL_PC_CUDA " -L${CUDAToolkit_LIBRARY_DIR} -lcudart_static -ldl -lrt -pthread")
  string(APPEND CAROUSEL_PC_REQUIRES "${CAROUSEL_PC_CUDA}")
endif()
if(NOT TARGET carousel_shared)
  set(CAROUSEL_PC_REQUIRES "Requires: fmt nlohmann_json ${CAROUSEL_REQUIRES}")
  if(CAROUSEL_CUDA_BUILT)
    set(CAROUSEL_PC_REQUIRES "${CAROUSEL_PC_REQUIRES}\nLibs.private:${CAROUSEL_PC_CUDA}")
  endif()
endif()
configure_file(${PROJECT_SOURCE_DIR}/cmake/carousel.pc.in ${PROJECT_BINARY_DIR}/carousel.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/carousel.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT development)
