/* other_hdf5.c - preloaded, HDF5 says that it is version 1.8.4, as one found through a wrong LD_LIBRARY_PATH would. */
#define EXPORT __attribute__((visibility("default")))

EXPORT int H5get_libversion(unsigned *major, unsigned *minor, unsigned *release)
{
    *major = 1;
    *minor = 8;
    *release = 4;
    return 0;
}
