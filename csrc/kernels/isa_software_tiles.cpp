// The kernels of isa_amx.cpp with the matrix unit in software, for tests where there is none.
#define FASTRNN_SOFTWARE_TILES
#define FASTRNN_MATRIX_KERNELS kSoftwareTiles
#include "kernels/isa_amx.cpp"
