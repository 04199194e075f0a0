// The kernels of isa_amx.cpp with the matrix unit in software, for tests where there is none.
#define FASTRNN_SOFTWARE_TILES
#define FASTRNN_MATRIX_BF16 kSoftwareTilesBf16
#define FASTRNN_MATRIX_ROUNDED kSoftwareTilesRounded
#include "kernels/isa_amx.cpp"
