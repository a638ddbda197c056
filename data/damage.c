/* damage.c - where in a file are the bytes that could not be read? */
#include "data/h5.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

enum { MOST = M2_STORE_RANK };

/* Can the chunk at `offset` be read? */
static int chunk_is_sound(hid_t array, hid_t type, const hsize_t *offset, const hsize_t *chunk, int rank)
{
    hsize_t dims[MOST], count[MOST], elements = 1;
    hid_t space = H5Dget_space(array);
    H5Sget_simple_extent_dims(space, dims, NULL);
    for (int i = 0; i < rank; i++) {
        count[i] = dims[i] - offset[i] < chunk[i] ? dims[i] - offset[i] : chunk[i];
        elements *= count[i];
    }
    void *buffer = malloc((size_t)elements * H5Tget_size(type));
    hid_t memory = H5Screate_simple(rank, count, NULL);
    H5Sselect_hyperslab(space, H5S_SELECT_SET, offset, NULL, count, NULL);
    int sound = !buffer || H5Dread(array, type, memory, space, H5P_DEFAULT, buffer) >= 0;
    H5Eclear2(H5E_DEFAULT);
    H5Sclose(memory);
    H5Sclose(space);
    free(buffer);
    return sound;
}

/* The next chunk of those that [offset, offset + count) touches; 0 after the last. */
static int next_chunk(hsize_t *at, const int64_t *offset, const int64_t *count, const hsize_t *chunk,
                      int rank)
{
    for (int i = rank - 1; i >= 0; i--) {
        at[i] += chunk[i];
        if (at[i] < (hsize_t)(offset[i] + count[i])) return 1;
        at[i] = (hsize_t)offset[i] / chunk[i] * chunk[i];
    }
    return 0;
}

void m2i_store_find_damage(hid_t array, const int64_t *offset, const int64_t *count, int rank, char *where,
                           size_t n)
{
    hsize_t chunk[MOST], at[MOST], size;
    hid_t plist = H5Dget_create_plist(array), type = H5Dget_type(array);
    unsigned mask;
    haddr_t address;
    int chunked = rank > 0 && H5Pget_layout(plist) == H5D_CHUNKED && H5Pget_chunk(plist, rank, chunk) == rank;
    *where = 0;
    for (int i = 0; chunked && i < rank; i++) at[i] = (hsize_t)offset[i] / chunk[i] * chunk[i];
    for (int more = chunked; more; more = next_chunk(at, offset, count, chunk, rank)) {
        if (chunk_is_sound(array, type, at, chunk, rank)) continue;
        if (H5Dget_chunk_info_by_coord(array, at, &mask, &address, &size) >= 0 && address != HADDR_UNDEF)
            snprintf(where, n,
                     ", in bytes %" PRIu64 " to %" PRIu64 " of the file (elements from %" PRIu64 " on)",
                     (uint64_t)address, (uint64_t)(address + size), (uint64_t)at[0]);
        break;
    }
    H5Eclear2(H5E_DEFAULT);
    H5Tclose(type);
    H5Pclose(plist);
}
